package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testproxy"
)

// sit runs a command at a terminal, which afterwards says how it was left.
func (s *shell) sit(args ...string) *testproc.Terminal {
	s.t.Helper()
	cmd := s.proxy.Command(s.t.Context(), append(args, "--user", s.user)...)
	sh, err := exec.LookPath("sh")
	if err != nil {
		testproc.Missing(s.t, "sh", err)
	}
	const leave = `trap : INT; "$@"; code=$?; stty -a; exit $code`
	cmd.Path, cmd.Args = sh, append([]string{"sh", "-c", leave, "sh"}, cmd.Args...)
	return testproc.OnTerminal(s.t, args[0], cmd)
}

// wantLeft waits for the end of a command at a terminal, and wants what it shows, and the
// terminal as it was.
func (s *shell) wantLeft(term *testproc.Terminal, code int, want ...string) string {
	s.t.Helper()
	shown, got := term.End()
	for _, text := range append(want, " icanon ", " echo ") {
		if !strings.Contains(shown, text) {
			s.t.Errorf("%q is not shown", text)
		}
	}
	if got != code || s.t.Failed() {
		s.t.Fatalf("exit code %d:\n%q", got, shown)
	}
	return shown
}

// At a terminal what is secret is typed unseen, and Ctrl-C ends
// a command also while it asks; the terminal is left as it was.
func TestAtATerminal(t *testing.T) {
	t.Parallel()
	hs := shared.Dendrite(t)
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
	account := newAccount(t, hs, "bob")
	bob := loginCurl(t, proxy.URL, account, "BOB1")
	bob.awaitInOrder()
	room := bob.createRoom()
	awaitBackedUp(t, hs, bob, room, bob.SendText(room, "hello"))
	s := &shell{t, proxy, account.UserID}
	const passphrase = "correct horse battery"
	file := filepath.Join(t.TempDir(), "keys.txt")

	// hidden types a secret where it is asked for.
	hidden := func(term *testproc.Terminal, question, secret string) {
		t.Helper()
		term.Await(question)
		term.AwaitHidden()
		term.Type(secret)
	}
	wantUnseen := func(shown, secret string) {
		t.Helper()
		if strings.Contains(shown, secret) {
			t.Errorf("the secret is shown:\n%q", shown)
		}
	}

	term := s.sit("export", file)
	hidden(term, "Passphrase of the file", passphrase+"\r")
	hidden(term, "The same again", "\x03")
	s.wantLeft(term, 1, "ended by a signal before there was an answer")

	term = s.sit("export", file)
	hidden(term, "Passphrase of the file", passphrase+"\r")
	hidden(term, "The same again", passphrase+"\r")
	wantUnseen(s.wantLeft(term, 0, "The keys are in "), passphrase)

	term = s.sit("import", file)
	hidden(term, "Passphrase of the file", passphrase+"\r")
	wantUnseen(s.wantLeft(term, 0, "Of 1 keys in the file 0 were news"), passphrase)

	// A person who is asked to write something leaves too.
	term = s.sit("reset")
	term.Await("To go on write ")
	term.Type("\x03")
	s.wantLeft(term, 1, "ended by a signal before there was an answer")

	other := testproxy.Start(t, hs.URL, testproxy.Options{})
	loginCurl(t, other.URL, account, "BOB2").awaitProblem("device_not_signed")
	s = &shell{t, other, account.UserID}
	key := bob.recoveryKey()
	term = s.sit("recover", "--restore")
	hidden(term, "Recovery key", key+"\r")
	wantUnseen(s.wantLeft(term, 0, "Recovered: this device is confirmed as yours."), key)
}
