package clients

import (
	"fmt"
	"net/url"
	"os/exec"
	"testing"
)

// matrixWebhook says in the room what is posted to it. It logs in anew at each start, and
// joins before it sends; its token is in the query, below r0.
func matrixWebhook(t *testing.T, p *place, again bool) client {
	p.invite(again)
	const key = "a key of the test"
	at := port(t)
	hook := start(t, p, exec.Command(python(t, "matrix-webhook"), "-m", "matrix_webhook"),
		"HOST=127.0.0.1", fmt.Sprintf("PORT=%d", at), "API_KEY="+key,
		"MATRIX_URL="+p.proxy.URL, "MATRIX_ID="+p.account.UserID, "MATRIX_PW="+p.account.Password)
	base := fmt.Sprintf("http://127.0.0.1:%d/", at)
	awaitURL(t, hook, base+"health")
	return client{say: func(t *testing.T, text string) {
		t.Helper()
		post(t, base+url.PathEscape(p.room), map[string]string{"body": text, "key": key})
	}}
}
