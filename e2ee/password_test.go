package e2ee_test

import (
	"context"
	"errors"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// loggedIn tells the engine of a login with a password.
func (r *rig) loggedIn(s liar.Session, password string) *e2ee.Device {
	r.t.Helper()
	if err := r.eng.LoggedIn(r.t.Context(), idUser(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token), secret.Bytes(password)); err != nil {
		r.t.Fatal(err)
	}
	return r.device(s)
}

// Attack: whoever reads the memory of the process, hours after a login, finds the
// password: it was kept for the making of an identity, and stayed wherever there was none
// to be made.
//
// Expected: it is forgotten as soon as it can be of no more use, in every branch.
func TestPasswordIsForgottenInEveryBranch(t *testing.T) {
	t.Parallel()
	const right = "password of alice"
	withUIA := func(t *testing.T) *liar.Server {
		hs := liar.New(t)
		hs.RequireUIAForFirstKeys()
		return hs
	}
	for name, run := range map[string]func(t *testing.T) *e2ee.Device{
		"it made the identity": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			d := newRig(t, hs, nil).loggedIn(hs.Login("alice", "FIRST"), right)
			ready(t, d)
			return d
		},
		"the homeserver refused it": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			d := newRig(t, hs, nil).loggedIn(hs.Login("alice", "FIRST"), "not the password")
			settle(t, d)
			if !problems(status(t, d))["no_identity"] {
				t.Error("there is an identity")
			}
			return d
		},
		"the homeserver wants more than a password": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			hs.Intercept(liar.Is("POST", "device_signing/upload"), func(*liar.Request, func() liar.Reply) liar.Reply {
				return liar.Reply{Status: 401, Body: map[string]any{"session": "s", "flows": []any{map[string]any{"stages": []string{"m.login.sso"}}}}}
			})
			d := newRig(t, hs, nil).loggedIn(hs.Login("alice", "FIRST"), right)
			settle(t, d)
			return d
		},
		"there is an identity, made elsewhere": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			first := newRig(t, hs, nil).loggedIn(hs.Login("alice", "FIRST"), right)
			ready(t, first)
			d := newRig(t, hs, nil).loggedIn(hs.Login("alice", "SECOND"), right)
			settle(t, d)
			return d
		},
		"the device is in order": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			r, s := newRig(t, hs, nil), hs.Login("alice", "FIRST")
			ready(t, r.loggedIn(s, right))
			return r.loggedIn(s, right)
		},
		"the device was logged out": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			hs.Intercept(liar.Is("POST", "device_signing/upload"), liar.Fail(502, "M_UNKNOWN"))
			r, s := newRig(t, hs, nil), hs.Login("alice", "FIRST")
			d := r.loggedIn(s, right)
			if !d.HoldsPassword() {
				t.Error("it is forgotten although the homeserver was never reached")
			}
			hs.Revoke(s.Token)
			if err := r.eng.Forget(t.Context(), idUser(s.UserID), "FIRST"); err != nil {
				t.Fatal(err)
			}
			return d
		},
		"the proxy ends": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			hs.Intercept(liar.Is("POST", "device_signing/upload"), liar.Fail(502, "M_UNKNOWN"))
			r := newRig(t, hs, nil)
			d := r.loggedIn(hs.Login("alice", "FIRST"), right)
			r.stop()
			return d
		},
		"a bootstrap by hand was refused with it": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			d := newRig(t, hs, func(o *e2ee.Options) { o.ManualBootstrap = true }).loggedIn(hs.Login("alice", "FIRST"), "not the password")
			settle(t, d)
			if !d.HoldsPassword() {
				t.Error("it is forgotten before the bootstrap by hand that it is for")
			}
			if _, err := d.Bootstrap(t.Context(), e2ee.UserAuth{}); !errors.Is(err, e2ee.ErrWrongPassword) {
				t.Errorf("the bootstrap: %v", err)
			}
			return d
		},
		"a reset used it": func(t *testing.T) *e2ee.Device {
			hs := withUIA(t)
			d := newRig(t, hs, func(o *e2ee.Options) { o.ManualBootstrap = true }).loggedIn(hs.Login("alice", "FIRST"), right)
			settle(t, d)
			if _, err := d.Reset(t.Context(), e2ee.UserAuth{}); err != nil {
				t.Errorf("the reset: %v", err)
			}
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := run(t); d.HoldsPassword() {
				await(t, "the password is kept", func() bool { return !d.HoldsPassword() })
			}
		})
	}
}

// The device of a client with its own encryption has no use for a password.
func TestPasswordOfAForeignDevice(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r, s := newRig(t, hs, nil), hs.Login("alice", "OWN")
	accept, err := r.eng.ClientHasKeys(t.Context(), idUser(s.UserID), "OWN", secret.NewString(s.Token))
	if err != nil || accept == nil {
		t.Fatal(err)
	}
	if err := accept(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	if d := r.loggedIn(s, "password of alice"); d.HoldsPassword() {
		t.Error("it is kept")
	}
}
