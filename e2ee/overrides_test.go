package e2ee_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// override makes or removes the exception for a device.
func (st *stage) override(p *puppet, trusted *bool) {
	st.t.Helper()
	if err := st.dev.SetOverride(st.t.Context(), id.UserID(p.UserID), id.DeviceID(p.DeviceID), trusted); err != nil {
		st.t.Fatal(err)
	}
}

// The owner of an account makes an exception for one device. It holds at once and in both
// directions: the next message is shared with the device, and what was held back of it is
// delivered. It is listed, logged and kept across a restart, and when it is taken back, the
// next message has a key of its own and what comes from the device is held back again
// (requirement 1.16).
func TestOverrideTrusts(t *testing.T) {
	t.Parallel()
	var logged logBook
	st := newStage(t, func(o *e2ee.Options) { o.Log = zerolog.New(&logged) })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	odd := newPuppet(t, st.hs, "bob", "ODD")
	carol := newPuppet(t, st.hs, "carol", "CAROL")
	st.override(carol, new(true)) // somebody of whom nothing was known so far
	st.override(carol, nil)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := st.send(room, "before")
	said := odd.newMegolm(room)
	said.share(st.target())
	held := said.say("held back so far")
	if code := st.wantHidden(held, "held back so far"); code != "UnsignedDevice" {
		t.Error(code)
	}

	st.override(odd, new(true))
	h := st.send(room, "for the odd device too")
	reads(t, odd, h)
	cannotRead(t, odd, before)
	if h.session != before.session {
		t.Error("nobody lost the key, so there is no need for another")
	}
	st.awaitText(held, "held back so far")
	if trust := trustOf(st.shown[held]); trust["code"] != "UnsignedDevice" || trust["color"] != "red" {
		t.Errorf("shown as %v: the exception hides what the device is", trust)
	}
	st.awaitText(said.say("shown at once"), "shown at once")
	st.again()
	want := []e2ee.UserDevice{{UserID: id.UserID(bob.UserID), DeviceID: "ODD", Trusted: true}}
	if got := status(t, st.dev).Overrides; !slices.Equal(got, want) {
		t.Errorf("after a restart status lists %v", got)
	}
	reads(t, odd, st.send(room, "after a restart"))

	st.override(odd, nil)
	h = st.send(room, "not for it any more")
	cannotRead(t, odd, h)
	reads(t, bob, h)
	wantTold(t, odd, h.session, "m.unverified")
	if code := st.wantHidden(said.say("held back again"), "held back again"); code != "UnsignedDevice" {
		t.Error(code)
	}
	if got := status(t, st.dev).Overrides; len(got) != 0 {
		t.Errorf("status lists %v", got)
	}
	st.stop()
	logged.wantLines(t, "The exception for a device was changed", map[string]any{
		"account": st.alice.UserID, "user": bob.UserID, "device": "ODD",
	}, "trusted", "none")
}

// The other exception: a device that its owner has confirmed is given nothing from the next
// message on, although nothing is wrong with it, and nothing of it is shown.
func TestOverrideDistrusts(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	second := newPuppet(t, st.hs, "bob", "SECOND")
	own.confirm(second)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := st.send(room, "before")
	reads(t, second, before)
	said := second.newMegolm(room)
	said.share(st.target())
	st.awaitText(said.say("shown so far"), "shown so far")

	st.override(second, new(false))
	h := st.send(room, "not for the second device")
	if h.session == before.session {
		t.Error("the device has the key of this message")
	}
	cannotRead(t, second, h)
	reads(t, bob, h)
	wantTold(t, second, h.session, "m.blacklisted")
	held := said.say("held back")
	if code := st.wantHidden(held, "held back"); code != "UnsignedDevice" {
		t.Error(code)
	}
	if got := status(t, st.dev).Overrides; len(got) != 1 || got[0].Trusted {
		t.Errorf("status lists %v", got)
	}

	st.override(second, nil)
	reads(t, second, st.send(room, "for it again"))
	st.awaitText(held, "held back")
}

// An exception for a device that does not exist changes nothing, and one that trusts ends with
// its device: another with the same ID has none.
func TestOverrideEndsWithItsDevice(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	odd := newPuppet(t, st.hs, "bob", "ODD")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "now bob is known"))
	wantErr(t, "no such device", st.dev.SetOverride(t.Context(), id.UserID(bob.UserID), "NONE", new(true)), e2ee.ErrUnknownDevice)
	st.override(odd, new(true))
	reads(t, odd, st.send(room, "for the odd device"))
	call(t, st.hs, odd.Session, "POST", "logout", map[string]any{}, nil)
	st.told()
	st.send(room, "it is gone")
	again := newPuppet(t, st.hs, "bob", "ODD")
	st.told()
	h := st.send(room, "for the new device?")
	cannotRead(t, again, h)
	wantTold(t, again, h.session, "m.unverified")
	if got := status(t, st.dev).Overrides; len(got) != 0 {
		t.Errorf("status lists %v", got)
	}
}

// Attack vector: a homeserver leaves a device that alice distrusts out of one answer, because it lies or
// because its answer is old, and shows it in the next.
//
// Expected: the exception outlives that, and a restart in between; it is listed all the time, and can be
// taken back while the device is not shown. A device with other keys under its ID is another one.
func TestDistrustOutlivesAnOldAnswer(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	odd := newPuppet(t, st.hs, "bob", "ODD")
	own.confirm(odd)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	st.override(odd, new(false))
	cannotRead(t, odd, st.send(room, "not for the odd one"))
	hidden := func(then func()) {
		t.Helper()
		defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query")), liar.Edit(func(_ *liar.Request, body map[string]any) {
			devices, _ := body["device_keys"].(map[string]any)
			of, _ := devices[bob.UserID].(map[string]any)
			delete(of, "ODD")
		}))()
		st.hs.ChangeDevices(bob.UserID)
		st.told()
		reads(t, bob, st.send(room, "it is not shown"))
		then()
	}
	shown := func() {
		st.hs.ChangeDevices(bob.UserID)
		st.told()
	}
	listed := func(want ...e2ee.UserDevice) {
		t.Helper()
		if got := status(t, st.dev).Overrides; !slices.Equal(got, want) {
			t.Errorf("status lists %v, want %v", got, want)
		}
	}
	exception := e2ee.UserDevice{UserID: id.UserID(bob.UserID), DeviceID: "ODD"}
	for _, then := range []func(){func() {}, st.again} {
		hidden(func() {
			then()
			listed(e2ee.UserDevice{UserID: exception.UserID, DeviceID: exception.DeviceID, Gone: true})
		})
		shown()
		h := st.send(room, "it is shown again")
		reads(t, bob, h)
		cannotRead(t, odd, h)
		wantTold(t, odd, h.session, "m.blacklisted")
		listed(exception)
	}
	hidden(func() {
		st.override(odd, nil)
		listed()
	})
	shown()
	reads(t, odd, st.send(room, "the exception was taken back"))
}

// wantLines fails unless the lines with a message are those with these overrides, in order,
// and have these fields.
func (l *logBook) wantLines(t *testing.T, message string, fields map[string]any, overrides ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var got []string
	for dec := json.NewDecoder(&l.all); dec.More(); {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line["message"] != message {
			continue
		}
		if line["user"] != fields["user"] {
			continue
		}
		for name, want := range fields {
			if line[name] != want {
				t.Errorf("%s is %v in %v", name, line[name], line)
			}
		}
		override, _ := line["override"].(string)
		got = append(got, override)
	}
	if !slices.Equal(got, overrides) {
		t.Errorf("logged %q, want %q", got, overrides)
	}
}
