package clients

import (
	"net/url"
	"path/filepath"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// shoutrrr sends one message each time that it is run: it logs in, joins, and sends by POST
// without a transaction ID, below r0 and with its token in the query.
func shoutrrr(t *testing.T, p *place, again bool) client {
	p.invite(again)
	program := shoutrrrProgram(t)
	to := "matrix://" + p.userinfo() + "@" + p.address() + "/?rooms=" + url.QueryEscape(p.room) + "&disableTLS=yes"
	return client{say: func(t *testing.T, text string) {
		t.Helper()
		run(t, p, program, "send", "--url", to, "--message", text)
	}}
}

func shoutrrrProgram(t *testing.T) string {
	t.Helper()
	program, err := testproc.GoProgram(t.Context(), filepath.Join("test", "shoutrrr"), "github.com/containrrr/shoutrrr/shoutrrr")
	if err != nil {
		testproc.Missing(t, "shoutrrr", err)
	}
	return program
}
