package e2e

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// shell runs commands of the proxy as the owner of the machine.
type shell struct {
	t     *testing.T
	proxy *testproxy.Proxy
	user  string
}

// run runs a command with an answer on its standard input, and returns what it says and its
// exit code.
func (s *shell) run(input string, args ...string) (out string, code int) {
	s.t.Helper()
	cmd := s.proxy.Command(s.t.Context(), append(args, "--user", s.user)...)
	cmd.Stdin = strings.NewReader(input)
	said, err := cmd.CombinedOutput()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		s.t.Fatal(err)
	}
	return string(said), cmd.ProcessState.ExitCode()
}

// want runs a command that must succeed and say something.
func (s *shell) want(said, input string, args ...string) string {
	s.t.Helper()
	out, code := s.run(input, args...)
	if code != 0 || !strings.Contains(out, said) {
		s.t.Fatalf("%v: exit code %d, want %q in:\n%s", args, code, said, out)
	}
	return out
}

// Somebody who has a shell and knows nothing of encryption brings a bot from nothing to
// "verified by me in Element": the doctor says what is missing, the commands do it, and the
// emoji of both sides are the same.
func TestFromNothingToVerified(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		account := newAccount(t, hs, "bot")
		s := &shell{t, proxy, account.UserID}

		// Nothing is there: the doctor says where to begin.
		out, code := s.run("", "doctor", "--json=false", "--homeserver", hs.URL)
		if code != 7 || !strings.Contains(out, "Log in through the proxy") {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
		bot := loginCurl(t, proxy.URL, account, "")
		s.want("Your recovery key:", account.Password+"\n", "bootstrap", "--json=false")
		s.want("talk", "", "doctor", "--talk", "--json=false", "--homeserver", hs.URL)
		s.want("All is well", "", "status", "--json=false")

		// Alice verifies the bot in Element, by emoji; the bot's owner answers in the shell.
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		room := bring(t, hs, alice, bot.account)
		wantClean(t, alice.AwaitDecrypted(room, bot.SendText(room, "before")), "before")
		alice.ListenVerifications()
		v := s.begin("verify", a.UserID, "--with", alice.DeviceID, "--json=false")
		alice.AwaitVerification(map[string]any{"phase": "requested"})
		alice.AcceptVerification()
		seen := alice.AwaitVerification(map[string]any{"emoji": true})
		for _, e := range seen.Emoji {
			v.await(e.Symbol)
		}
		v.await("or, as numbers: ")
		alice.ConfirmEmoji()
		v.answer("ja\nyes\n")
		if said, code := v.end(); code != 0 || !strings.Contains(said, "Verified: "+a.UserID) || !strings.Contains(said, "Write yes or no.") {
			t.Errorf("exit code %d:\n%s", code, said)
		}
		alice.AwaitVerification(map[string]any{"phase": "done"})
		alice.AwaitUserStatus(bot.account.UserID, map[string]any{"verified": true})
		s.want("verified", "", "devices", a.UserID, "--json=false")
		wantClean(t, alice.AwaitDecrypted(room, bot.SendText(room, "after")), "after")

		// What they see is not the same: nothing is verified, and the exit code says so.
		v = s.begin("verify", a.UserID, "--with", alice.DeviceID, "--json=false")
		alice.AwaitVerification(map[string]any{"phase": "requested"})
		alice.AcceptVerification()
		v.await("or, as numbers: ")
		v.answer("no\n")
		if said, code := v.end(); code != 1 || !strings.Contains(said, "nothing was verified") {
			t.Errorf("exit code %d:\n%s", code, said)
		}

		// After a logout the answer is clear, and what to do is said.
		bot.call(http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil)
		if out, code := s.run("", "status"); code != 1 || !strings.Contains(out, "log in through the proxy first") {
			t.Errorf("exit code %d:\n%s", code, out)
		}
	})
}

// dialogue is a command that asks.
type dialogue struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   io.WriteCloser
	said chan string // what it says, piece by piece
	all  bytes.Buffer
}

// begin starts a command that asks.
func (s *shell) begin(args ...string) *dialogue {
	s.t.Helper()
	d := &dialogue{t: s.t, cmd: s.proxy.Command(s.t.Context(), append(args, "--user", s.user)...), said: make(chan string)}
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	out, in := io.Pipe()
	d.cmd.Stdout, d.cmd.Stderr = in, in
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { // ends when the command has
		defer close(d.said)
		buf := make([]byte, 4096)
		for {
			n, err := out.Read(buf)
			if n > 0 {
				d.said <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	go func() { _ = d.cmd.Wait(); _ = in.Close() }()
	s.t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		for range d.said { // until it has ended
		}
	})
	return d
}

// await waits until the command has said something.
func (d *dialogue) await(text string) {
	d.t.Helper()
	for !strings.Contains(d.all.String(), text) {
		piece, ok := <-d.said
		if !ok {
			d.t.Fatalf("it never said %q, but:\n%s", text, d.all.String())
		}
		d.all.WriteString(piece)
	}
}

func (d *dialogue) answer(text string) {
	d.t.Helper()
	if _, err := io.WriteString(d.in, text); err != nil {
		d.t.Fatal(err)
	}
}

// end waits for the end of the command, and returns all that it said and its exit code.
func (d *dialogue) end() (string, int) {
	for piece := range d.said {
		d.all.WriteString(piece)
	}
	return d.all.String(), d.cmd.ProcessState.ExitCode()
}
