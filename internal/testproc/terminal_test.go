package testproc_test

import (
	"os/exec"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// A program at a terminal knows that it is at one, is typed to, and ends; what it reads
// without showing is not shown.
func TestOnTerminal(t *testing.T) {
	t.Parallel()
	term := testproc.OnTerminal(t, "sh", exec.Command("sh", "-c",
		`test -t 0 && test -t 1 && test -t 2 && stty size && read a && stty -echo && printf 'hidden ' && read b && stty echo && echo "$a.$b" | tr a-z A-Z; exit 3`))
	term.Await("24 80\r\n")
	term.Type("seen\r")
	term.Await("hidden ")
	term.AwaitHidden()
	term.Type("unseen\r")
	shown, code := term.End()
	if code != 3 || !strings.Contains(shown, "seen\r\n") || strings.Contains(shown, "unseen") || !strings.Contains(shown, "SEEN.UNSEEN\r\n") {
		t.Errorf("exit code %d, shown %q", code, shown)
	}
}
