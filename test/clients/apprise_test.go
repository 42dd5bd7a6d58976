package clients

import (
	"net/url"
	"path/filepath"
	"testing"
)

// apprise sends one message each time that it is run. It keeps its session in a folder, and
// has no encryption without the package cryptography.
func apprise(t *testing.T, p *place, again bool) client {
	p.invite(again)
	interpreter := python(t, "apprise")
	program := filepath.Join(filepath.Dir(interpreter), "apprise")
	to := "matrix://" + p.userinfo() + "@" + p.address() + "/" + url.PathEscape(p.room)
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			run(t, p, interpreter, program, "--body", text, to)
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			run(t, p, interpreter, program, "--body", "A picture", "--attach", file, to)
			p.wantRead(t, "A picture")
		},
	}
}
