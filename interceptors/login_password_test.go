package interceptors

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// loginWatch keeps hold of what a login passes on.
type loginWatch struct {
	fakeUpstream
	fakeDevices
	body     []byte
	password secret.Bytes
}

func (l *loginWatch) Do(x *Exchange, c Change) (*http.Response, error) {
	if held, ok := x.Request.Body.(*onceBody); ok {
		l.body = held.all
		if !bytes.Contains(l.body, []byte(canary)) {
			return nil, errors.New("the password does not reach the homeserver")
		}
	}
	return l.fakeUpstream.Do(x, c)
}

func (l *loginWatch) LoggedIn(_ context.Context, _ Identity, password secret.Bytes) error {
	l.password = password
	if string(password) != canary {
		return errors.New("the engine got another password")
	}
	return l.noteErr
}

// Attack: whoever reads the memory of the process finds the password of a login, in its
// body or where it was put from there.
//
// Expected: both are overwritten when the request ends, however it ends.
func TestPasswordOfALoginIsOverwritten(t *testing.T) {
	t.Parallel()
	const answer = `{"user_id":"@alice:hs.example","access_token":"tok","device_id":"DEV"}`
	for name, test := range map[string]struct {
		handler        string
		status         int
		answer         string
		broken, failed error
		known          bool // the engine hears of it
	}{
		"login":                       {handler: Login, status: 200, answer: answer, known: true},
		"register":                    {handler: Register, status: 200, answer: answer, known: true},
		"the engine fails":            {handler: Login, status: 200, answer: answer, failed: io.ErrClosedPipe, known: true},
		"wrong password":              {handler: Login, status: 403, answer: `{"errcode":"M_FORBIDDEN"}`},
		"no homeserver":               {handler: Login, broken: io.ErrUnexpectedEOF},
		"a step of registration":      {handler: Register, status: 401, answer: `{"flows":[]}`},
		"an answer without a device":  {handler: Login, status: 200, answer: `{}`},
		"an answer that is something": {handler: Login, status: 200, answer: `<html>`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, e2ee.ModeProxied)
			l := &loginWatch{}
			l.noteErr, l.broken = test.failed, test.broken
			l.respond = func(seen) (int, string) { return test.status, test.answer }
			body := `{"type":"m.login.password","password":"` + canary + `"}`
			x := &Exchange{
				Writer: httptest.NewRecorder(), Request: httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), Upstream: l, Devices: l,
				Endpoint: Endpoint{Pattern: "/_matrix/client/{version}/" + test.handler, Version: "v3", Params: map[string]string{}},
			}
			if err := w.handlers[test.handler](x); !errors.Is(err, test.broken) {
				t.Fatal(err)
			}
			if len(l.body) != len(body) || !bytes.Equal(l.body, make([]byte, len(body))) {
				t.Errorf("of the body is left %q", l.body)
			}
			if (l.password != nil) != test.known || !bytes.Equal(l.password, make([]byte, len(l.password))) {
				t.Errorf("of the password is left %q", l.password.Reveal())
			}
		})
	}
}

// A body may be closed while it is read: it ends there, and nothing more is given.
func TestBodyThatIsReadOnce(t *testing.T) {
	t.Parallel()
	x := &Exchange{Request: httptest.NewRequest(http.MethodPost, "/", nil)}
	raw := []byte("a secret")
	body := putBackOnce(x, raw)
	p := make([]byte, 2)
	if n, err := x.Request.Body.Read(p); string(p[:n]) != "a " || err != nil {
		t.Errorf("%q, %v", p[:n], err)
	}
	if err := body.Close(); err != nil || !bytes.Equal(raw, make([]byte, len(raw))) {
		t.Errorf("%q is left, %v", raw, err)
	}
	if rest, err := io.ReadAll(x.Request.Body); len(rest) > 0 || err != nil {
		t.Errorf("after its end %q comes, %v", rest, err)
	}
}
