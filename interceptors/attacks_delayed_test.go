package interceptors

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Report: Dendrite 0.15.2 does not know delayed events and sends one at once, so that a
// client that schedules its own leaving of a call has left it.
//
// Expected: unless the homeserver says in /versions that it can, a delay is refused for every
// client, in every room, under all its names; nothing is sent. A homeserver that cannot be
// asked cannot. One that can gets the ciphertext, with the delay.
func TestDelayedEventsThatWouldBeSentAtOnce(t *testing.T) {
	t.Parallel()
	const can = `{"unstable_features":{"org.matrix.msc4140":true}}`
	calls := map[string]func() call{
		"send":      func() call { return sendCall(encryptedRoom, typeMessage, message) },
		"post":      func() call { return postCall(encryptedRoom, typeMessage, message) },
		"in clear":  func() call { return sendCall(plainRoom, typeMessage, `{"body":"plain"}`) },
		"state":     func() call { return stateCall(encryptedRoom, "m.call.member", alice.String(), `{}`) },
		"member":    func() call { return stateCall(encryptedRoom, typeMember, bob.String(), `{"membership":"leave"}`) },
		"redaction": func() call { return redactCall(encryptedRoom, `{}`) },
	}
	for name, make := range calls {
		for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeUnknown} {
			for query, versions := range map[string][]string{
				"org.matrix.msc4140.delay=1000":                       {"", `{"unstable_features":{"org.matrix.msc4140":false}}`, `{"unstable_features":{"org.matrix.msc4140":"true"}}`, `{"unstable_features":[]}`},
				"ts=1&org%2Ematrix.msc4140.delay=":                    {""},
				"org.matrix.msc4140.parent_delay_id=x":                {""},
				"org.matrix.msc4140.future_timeout=1":                 {""},
				"delay=1000":                                          {"", can},
				"org.matrix.msc4140.delay=1&parent_delay_id=x":        {"", can},
				"org.matrix.msc4140.delay=1000&user_id=%40ghost%3Ahs": {""},
			} {
				for _, answer := range versions {
					w := newWorld(t, mode)
					w.up.versions = answer
					c := make()
					c.query = query
					_, err := w.do(c)
					if name == "redaction" {
						wantError(t, err, http.StatusBadRequest, apierr.CodeInvalidParam)
					} else if e := shown(t, err, http.StatusForbidden, apierr.CodeForbidden); e.Fields["org.matrix.msc4140.errcode"] != "M_MAX_DELAY_UNSUPPORTED" {
						t.Errorf("%s?%s: the refusal has %v", name, query, e.Fields)
					}
					w.wantNothingUpstream()
				}
			}
			w := newWorld(t, mode)
			w.up.versions = "broken"
			c := make()
			c.query = "org.matrix.msc4140.delay=1000"
			if name != "redaction" {
				_, err := w.do(c)
				wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
				w.wantNothingUpstream()
			}
		}
	}
	for name, make := range calls {
		if name == "redaction" {
			continue
		}
		w := newWorld(t, e2ee.ModeProxied)
		w.up.versions = can
		c := make()
		c.query = "org.matrix.msc4140.delay=1000"
		if _, err := w.do(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.up.requests(); len(got) != 1 || got[0].query != c.query || strings.Contains(got[0].body, canary) {
			t.Errorf("%s: the homeserver got %+v", name, got)
		}
	}
}
