package e2ee_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// What a user's devices are, and that each can be acted for without its client: with the
// token that it used last, also after a restart, and as the device itself.
func TestHeldDevices(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	old, latest := hs.Login("bob", "OLD"), hs.Login("bob", "LATEST")
	user := id.UserID(old.UserID)
	before := r.now().Add(-time.Second)
	for _, s := range []liar.Session{latest, old} {
		ready(t, r.device(s))
	}
	list := func() []e2ee.HeldDevice {
		t.Helper()
		all, err := r.eng.HeldDevices(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := list()
	if len(all) != 2 || all[0].DeviceID != "OLD" || all[1].DeviceID != "LATEST" {
		t.Fatalf("the one used last is not the first: %+v", all)
	}
	for _, d := range all {
		if d.Mode != e2ee.ModeProxied || !d.HasToken || !d.LastUsed.After(before) {
			t.Errorf("%+v", d)
		}
	}
	if none, err := r.eng.HeldDevices(t.Context(), "@nobody:hs"); err != nil || len(none) != 0 {
		t.Errorf("an unknown user has %v, error %v", none, err)
	}

	r.restart()
	if _, err := r.eng.Held(t.Context(), user, "NONE"); !errors.Is(err, e2ee.ErrUnknownDevice) {
		t.Errorf("a device that never was here: %v", err)
	}
	if _, err := r.eng.Held(t.Context(), "@nobody:hs", "OLD"); !errors.Is(err, e2ee.ErrUnknownDevice) {
		t.Errorf("a device of nobody: %v", err)
	}
	held, err := r.eng.Held(t.Context(), user, "LATEST")
	if err != nil {
		t.Fatal(err)
	}
	if s := status(t, held); s.DeviceID != "LATEST" || !inOrder(s) {
		t.Errorf("it stands like this: %+v", s)
	}
	if all := list(); all[0].DeviceID != "LATEST" || all[0].LastUsed.IsZero() || !all[1].LastUsed.IsZero() {
		t.Errorf("what was used since the restart: %+v", all)
	}
	if token, err := r.eng.HeldToken(t.Context(), user, "OLD"); err != nil || token.Reveal() != old.Token {
		t.Errorf("its token is another, error %v", err)
	}
}

// A device that was logged out is not acted for: the answer says so, and its keys are gone
// as if its client had come. After a soft logout, and while the homeserver says nothing, they
// stay.
func TestHeldDeviceWhoseSessionHasEnded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		refuse func(hs *liar.Server, s liar.Session) // nil logs out
		ended  bool
		kept   int
	}{
		"logged out": {ended: true},
		"soft logout": {ended: true, kept: 1, refuse: func(hs *liar.Server, s liar.Session) {
			hs.Intercept(liar.Of(s.UserID, liar.Is("", "")), func(*liar.Request, func() liar.Reply) liar.Reply {
				return liar.Reply{Status: http.StatusUnauthorized, Body: map[string]any{"errcode": "M_UNKNOWN_TOKEN", "soft_logout": true}}
			})
		}},
		"homeserver is down": {kept: 1, refuse: func(hs *liar.Server, s liar.Session) {
			hs.Intercept(liar.Of(s.UserID, liar.Is("", "")), func(*liar.Request, func() liar.Reply) liar.Reply {
				return liar.Reply{Status: http.StatusBadGateway, Body: map[string]any{}}
			})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			r := newRig(t, hs, nil)
			session := hs.Login("bob", "BOB")
			user := id.UserID(session.UserID)
			ready(t, r.device(session))
			r.stop()
			if test.refuse == nil {
				call(t, hs, session, http.MethodPost, "logout", map[string]any{}, nil)
				hs.Intercept(liar.Is(http.MethodGet, "/sync$"), liar.Fail(http.StatusBadGateway, "M_UNKNOWN")) // or it is noticed before
			} else {
				test.refuse(hs, session)
			}
			r.start()
			_, err := r.eng.Held(t.Context(), user, "BOB")
			if errors.Is(err, e2ee.ErrSessionEnded) != test.ended || !test.ended && err != nil {
				t.Errorf("it is acted for with error %v", err)
			}
			all, err := r.eng.HeldDevices(t.Context(), user)
			if err != nil || len(all) != test.kept {
				t.Errorf("%v are left, error %v", all, err)
			}
			_, err = r.eng.Held(t.Context(), user, "BOB")
			if gone := test.kept == 0; errors.Is(err, e2ee.ErrUnknownDevice) != gone {
				t.Errorf("asked again: %v", err)
			}
		})
	}
}
