package e2ee_test

import (
	"net/http"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// asker is another device of alice's, confirmed by her identity, that asks the proxy's
// for something.
type asker struct {
	*puppet
	st  *stage
	ask func(action string)
}

// answers counts what the asker was given over Olm.
func (a *asker) answers() int {
	a.listen()
	return len(a.opened)
}

func newAsker(t *testing.T, what string, change func(*e2ee.Options)) *asker {
	t.Helper()
	st := newStage(t, func(o *e2ee.Options) {
		o.OwnSyncAfter = time.Hour
		if change != nil {
			change(o)
		}
	})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := st.send(room, "before the other device")
	a := &asker{puppet: st.ownPuppet("ASKER"), st: st}
	await(t, "the other device is not known to be confirmed", func() bool {
		own, err := st.dev.Own(t.Context())
		return err == nil && own.Device("ASKER") != nil && own.Device("ASKER").Signed
	})
	content := map[string]any{"request_id": "r", "requesting_device_id": "ASKER"}
	eventType := "m.secret.request"
	if what == "a room key" {
		eventType = "m.room_key_request"
		content["body"] = map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.session}
	} else {
		content["name"] = what
	}
	a.ask = func(action string) {
		content["action"] = action
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, st.alice.UserID, eventType, content)
		st.told()
	}
	return a
}

// Attack: a device of the user's asks for a secret or a room key, as it may. While the
// homeserver holds up the one-time key that the answer is to be encrypted with, the device
// loses its owner's signature, or the owner says that it is distrusted, or takes the request
// back, or the identity is replaced by one that the homeserver has made. Nothing is given.
func TestAnswersAreDecidedAgain(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"m.cross_signing.master", "m.megolm_backup.v1", "a room key"} {
		for name, tc := range map[string]struct {
			change func(t *testing.T, a *asker)
			want   int
		}{
			"nothing happens": {func(*testing.T, *asker) {}, 1},
			"signature withdrawn": {func(_ *testing.T, a *asker) {
				a.st.hs.EditDeviceKeys(a.UserID, a.DeviceID, func(keys map[string]any) {
					keys["signatures"] = a.deviceKeys()["signatures"]
				})
				a.st.told()
			}, 0},
			"distrusted":      {func(_ *testing.T, a *asker) { a.st.override(a.puppet, new(false)) }, 0},
			"taken back":      {func(_ *testing.T, a *asker) { a.ask("request_cancellation") }, 0},
			"identity forged": {func(t *testing.T, a *asker) { forgeOwn(t, a) }, 0},
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				a := newAsker(t, what, nil)
				gate := liar.NewGate()
				defer a.st.hs.Intercept(liar.Of(a.UserID, liar.Is("POST", "keys/claim$")), gate.Before)()
				a.ask("request")
				held := make(chan struct{})
				go func() { defer close(held); a.st.dev.Maintain(t.Context()) }()
				<-gate.Arrived()
				tc.change(t, a)
				gate.Open()
				<-held
				a.st.dev.Maintain(t.Context())
				if n := a.answers(); n != tc.want {
					t.Errorf("%d answers, want %d", n, tc.want)
				}
			})
		}
	}
}

// forgeOwn has the homeserver show another identity of alice's that has signed both devices.
func forgeOwn(t *testing.T, a *asker) {
	t.Helper()
	forge := newForgery(t, a.UserID)
	a.st.hs.Intercept(liar.Of(a.UserID, liar.Is("POST", "keys/query")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		forge.show(t, body, a.UserID, a.DeviceID)
		forge.show(t, body, a.UserID, a.st.alice.DeviceID)
	}))
	a.st.hs.ChangeDevices(a.UserID)
	a.st.told()
}

// The device that asks has no one-time key left, or the homeserver says so. An answer that
// could not be made is none: the request waits, through a restart too, and is answered once
// there is a key; after a day nobody awaits that any more. The homeserver is not asked
// with every sync.
func TestAnswerThatCouldNotBeMade(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"m.cross_signing.master", "a room key"} {
		for name, tc := range map[string]struct {
			before func(a *asker)
			want   int
		}{
			"an hour later":     {func(a *asker) { a.st.later(61 * time.Minute) }, 1},
			"after a restart":   {func(a *asker) { a.st.again() }, 1},
			"longer than a day": {func(a *asker) { a.st.later(25 * time.Hour) }, 0},
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				a := newAsker(t, what, nil)
				claims := func() int { return len(a.st.hs.Requests(liar.Of(a.UserID, liar.Is("POST", "keys/claim$")))) }
				before := claims()
				none := a.st.hs.Intercept(liar.Of(a.UserID, liar.Is("POST", "keys/claim$")), func(*liar.Request, func() liar.Reply) liar.Reply {
					return liar.OK(map[string]any{"one_time_keys": map[string]any{}, "failures": map[string]any{}})
				})
				a.ask("request")
				for range 3 {
					a.st.told()
					a.st.dev.Maintain(t.Context())
				}
				if n := claims() - before; n != 1 {
					t.Errorf("one-time keys were claimed %d times", n)
				}
				tc.before(a)
				if tc.want == 0 {
					a.st.dev.Maintain(t.Context())
				}
				none()
				await(t, "the device is not settled", func() bool {
					a.st.told()
					a.st.dev.Maintain(t.Context())
					return a.answers() == tc.want
				})
				a.st.dev.Maintain(t.Context())
				if n := a.answers(); n != tc.want {
					t.Errorf("%d answers, want %d", n, tc.want)
				}
			})
		}
	}
}

// The same when the homeserver refuses to give one-time keys out at all.
func TestAnswerThatTheHomeserverRefuses(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"m.cross_signing.master", "a room key"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			a := newAsker(t, what, nil)
			fails := a.st.hs.Intercept(liar.Of(a.UserID, liar.Is("POST", "keys/claim$")), liar.Fail(http.StatusBadGateway, "M_UNKNOWN"))
			a.ask("request")
			a.st.dev.Maintain(t.Context())
			if n := a.answers(); n != 0 {
				t.Fatalf("%d answers without a one-time key", n)
			}
			fails()
			await(t, "the request is not answered", func() bool {
				a.st.dev.Maintain(t.Context())
				return a.answers() == 1
			})
		})
	}
}

// Attack: while the newest key backup is looked at, the homeserver replaces the user's
// identity. No room key is uploaded before the new identity was looked at.
func TestBackupIsDecidedAgain(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	settle(t, st.dev)
	uploads := func() int {
		return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "room_keys/keys$"))))
	}
	before := uploads()
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "room_keys/version$")), gate.Before)()
	st.hs.ChangeDevices(st.alice.UserID) // so that the backup is looked at
	st.told()
	<-gate.Arrived()
	st.send(room, "with a key that is not in the backup")
	forge := newForgery(t, st.alice.UserID)
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		forge.show(t, body, st.alice.UserID, st.alice.DeviceID)
	}))()
	st.hs.ChangeDevices(st.alice.UserID)
	st.told()
	gate.Open()
	await(t, "the change is not noticed", func() bool {
		st.dev.Maintain(t.Context())
		return problems(status(t, st.dev))["own_identity_changed"]
	})
	if n := uploads() - before; n > 0 {
		t.Errorf("room keys were uploaded %d times", n)
	}
}
