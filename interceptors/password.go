package interceptors

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// A change of the password that may have been done, by a replica that ended before it answered, is
// made again. To set the same password twice is the same. But the old one, by which the request
// is authenticated, may not hold any more. Synapse knows the session of the authentication
// again; Dendrite refuses. Then it is made with the new password in the place of the old one: who
// has that may set it, and it holds only if the change was done. Neither is stored or logged.

// changePasswordAgain makes a change again, and calls done if it was done, now or before.
func changePasswordAgain(x *Exchange, done func(ctx context.Context, body strictjson.Object) error) error {
	raw, body, err := endBody(x)
	if err != nil {
		return err
	}
	x.PutBack(raw)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if isRefused(resp) {
		proof, err := authenticatedByNew(raw, body)
		if err != nil {
			return err
		}
		if proof != nil {
			proved, err := insist(x, proof)
			if err != nil {
				return err
			}
			defer func() { _ = proved.Body.Close() }()
			if !isRefused(proved) {
				resp = proved
			}
		}
	}
	if resp.StatusCode == http.StatusOK {
		if err := done(context.WithoutCancel(x.Request.Context()), body); err != nil {
			return err
		}
	}
	return x.Upstream.Relay(x, resp)
}

// isRefused reports whether the homeserver does not accept a password.
func isRefused(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) &&
		exchange.AnswerObject(resp).TextOrEmpty("errcode") == apierr.CodeForbidden
}

// authenticatedByNew returns the body with the new password as the one that authenticates it; nil if
// no password does.
func authenticatedByNew(raw []byte, body strictjson.Object) ([]byte, error) {
	auth, newPassword := body.Object("auth"), jsontext.Value(body.Get("new_password"))
	if auth.TextOrEmpty("type") != "m.login.password" || newPassword.Kind() != jsontext.KindString || bytes.Equal(newPassword, auth.Get("password")) {
		return nil, nil
	}
	return editMember(raw, "auth", func(auth []byte) ([]byte, error) {
		return editMember(auth, "password", func([]byte) ([]byte, error) { return newPassword, nil })
	})
}

// insist sends a body, and again for as long as the homeserver says that this is too often.
func insist(x *Exchange, body []byte) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := x.Upstream.Do(x, Change{Body: body})
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || try == looks {
			return resp, err
		}
		_ = resp.Body.Close()
		select {
		case <-x.Request.Context().Done():
			return nil, x.Request.Context().Err()
		case <-time.After(lookEvery):
		}
	}
}
