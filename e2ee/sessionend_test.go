package e2ee_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Requirements 22.1 and 22.2: the proxy's own sync is refused. A token that is no longer
// known ends the device with its keys; after a soft logout, and while the user is locked,
// the keys stay, and the device goes on with its next token, or with the same one.
func TestHomeserverEndsTheSession(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		code  string
		soft  bool
		again bool // the same token is used again
		keeps bool
	}{
		"logged out":      {code: "M_UNKNOWN_TOKEN"},
		"soft logout":     {code: "M_UNKNOWN_TOKEN", soft: true, keeps: true},
		"locked":          {code: "M_USER_LOCKED", soft: true, again: true, keeps: true},
		"locked, no hint": {code: "M_USER_LOCKED", again: true, keeps: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			r := newRig(t, hs, nil)
			session := hs.Login("bob", "BOB")
			d := r.device(session)
			ready(t, d)
			keys := status(t, d).Keys
			var refused atomic.Int64
			recover := hs.Intercept(liar.Of(session.UserID, liar.Is(http.MethodGet, "/(sync|account/whoami)$")), func(*liar.Request, func() liar.Reply) liar.Reply {
				refused.Add(1)
				body := map[string]any{"errcode": test.code, "error": "as the test wants it"}
				if test.soft {
					body["soft_logout"] = true
				}
				return liar.Reply{Status: http.StatusUnauthorized, Body: body}
			})
			hs.SendToDevice(session.UserID, session.DeviceID, "@x:y", "m.dummy", map[string]any{}) // ends the poll in flight
			devices := func() int {
				row, err := r.db.LookupAccount(t.Context(), id.UserID(session.UserID))
				if err != nil {
					t.Fatal(err)
				}
				all, err := r.db.Devices(t.Context(), row)
				if err != nil {
					t.Fatal(err)
				}
				return len(all)
			}
			await(t, "the refusal has its effect", func() bool { return refused.Load() > 0 && (test.keeps || devices() == 0) })
			if test.keeps && devices() != 1 {
				t.Fatal("the device was forgotten")
			}
			recover()
			if !test.keeps { // what the homeserver said is true
				call(t, hs, session, http.MethodPost, "logout", map[string]any{}, nil)
			}
			if !test.again {
				session = hs.Login("bob", "BOB")
			}
			var back *e2ee.Device
			await(t, "the device comes back", func() bool {
				back = r.device(session) // each request of a client brings the token again
				s, err := back.Status(t.Context())
				return err == nil && inOrder(s)
			})
			if got := status(t, back).Keys; (got == keys) != test.keeps {
				t.Errorf("it comes back with %+v, had %+v", got, keys)
			}
			before := len(hs.Requests(liar.Is(http.MethodGet, "/sync$")))
			hs.SendToDevice(session.UserID, session.DeviceID, "@x:y", "m.dummy", map[string]any{})
			await(t, "the proxy syncs again", func() bool {
				back = r.device(session)
				return len(hs.Requests(liar.Is(http.MethodGet, "/sync$"))) > before
			})
			if back.Mode() != e2ee.ModeProxied {
				t.Errorf("mode %v", back.Mode())
			}
		})
	}
}

// Requirement 22.1, and attack vector: a client's request is answered with 401
// M_UNKNOWN_TOKEN, or with 200 to a logout. The device's keys are destroyed when
// /account/whoami says with the device's own token that its session is over for good, and
// for nothing else: not while the token works, not when nobody answers, not for a soft
// logout, a locked user, another token, or an application service's.
func TestKeysAreDestroyedForOneReason(t *testing.T) {
	t.Parallel()
	whoami := liar.Is(http.MethodGet, "/account/whoami$")
	unknown := func(soft bool) liar.Hook {
		return func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: http.StatusUnauthorized, Body: map[string]any{"errcode": "M_UNKNOWN_TOKEN", "error": "x", "soft_logout": soft}}
		}
	}
	for name, test := range map[string]struct {
		says  liar.Hook // nil: the token works
		token string    // that was refused; the device's own when empty
		soft  bool      // what the client was told
		gone  bool
	}{
		"the token works":            {},
		"the session is over":        {says: unknown(false), gone: true},
		"softly":                     {says: unknown(true)},
		"the client was told softly": {says: unknown(false), soft: true},
		"locked":                     {says: liar.Fail(http.StatusUnauthorized, "M_USER_LOCKED")},
		"forbidden":                  {says: liar.Fail(http.StatusForbidden, "M_UNKNOWN_TOKEN")},
		"not found":                  {says: liar.Fail(http.StatusNotFound, "M_UNRECOGNIZED")},
		"an error":                   {says: liar.Fail(http.StatusInternalServerError, "M_UNKNOWN")},
		"too many":                   {says: liar.Fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")},
		"no answer":                  {says: liar.Cut},
		"401 without words": {says: func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: 401, Body: []byte("<html>")}
		}},
		"another token, of a service": {says: unknown(false), token: "as_token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			r := newRig(t, hs, nil)
			s := hs.Login("bob", "BOB")
			ready(t, r.device(s))
			keys := status(t, r.device(s)).Keys
			token, user, device := test.token, id.UserID(s.UserID), id.DeviceID(s.DeviceID)
			if token == "" {
				token = s.Token
			}
			done := func() {}
			if test.says != nil {
				done = hs.Intercept(whoami, test.says)
			}
			if err := r.eng.UnknownToken(t.Context(), user, device, secret.NewString(token), test.soft); err != nil {
				t.Fatal(err)
			}
			if !test.gone && test.token == "" && !test.soft { // what the homeserver confirms in words
				for _, end := range []func() error{
					func() error { return r.eng.Forget(t.Context(), user, device) },
					func() error { return r.eng.ForgetAll(t.Context(), user) },
					func() error { return r.eng.ForgetAccount(t.Context(), user) },
				} {
					if err := end(); err != nil {
						t.Fatal(err)
					}
				}
			}
			done()
			if gone := status(t, r.device(s)).Keys != keys; gone != test.gone {
				t.Errorf("destroyed: %t, want %t", gone, test.gone)
			}
		})
	}
}
