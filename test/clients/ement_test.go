package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"e2ee-proxy/internal/testproc"
)

// ement is Ement.el in Emacs without a screen. It saves its session when Emacs ends.
func ement(t *testing.T, p *place, again bool) client {
	emacs, err := exec.LookPath("emacs")
	if err == nil {
		err = exec.Command(emacs, "--batch", "--eval", "(require 'ement)").Run()
	}
	if err != nil {
		testproc.Missing(t, "Emacs with Ement.el (Debian: emacs-nox, elpa-ement)", err)
	}
	commands := filepath.Join(t.TempDir(), "commands")
	f, err := os.Create(commands)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	do := func(t *testing.T, form string) {
		t.Helper()
		if _, err := f.WriteString(form + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	editor := start(t, p, exec.Command(emacs, "--batch", "--load", driver(t, "ement.el")),
		"URL="+p.proxy.URL, "ID="+p.account.UserID, "PASSWORD="+p.account.Password, "ROOM="+p.room, "COMMANDS="+commands)
	await(t, editor, "synced")
	if !again {
		p.invite(again)
		do(t, "join")
		await(t, editor, "joined")
	}
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			do(t, "say "+text)
		},
		hears: func(t *testing.T, text string) {
			t.Helper()
			await(t, editor, "heard "+text)
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			do(t, "send "+file)
		},
		opens: func(t *testing.T, name string) []byte {
			t.Helper()
			await(t, editor, "opened "+name)
			return readFile(t, filepath.Join(p.dir, name))
		},
		older: func(t *testing.T, text string) {
			t.Helper()
			do(t, "older")
			await(t, editor, "older "+text)
		},
		stop: func(t *testing.T) {
			t.Helper()
			do(t, "stop")
			select {
			case <-editor.Done():
			case <-time.After(patience):
				t.Fatal("Emacs does not end")
			}
		},
	}
}
