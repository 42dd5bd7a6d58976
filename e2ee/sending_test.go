package e2ee_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// What takes nothing away from anybody costs nobody a new session: another name, a restart,
// a new device, somebody who joins. Those who come get the live key at its current index,
// not what was said before (requirement 9.8).
func TestNoNeedlessRotation(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "first")
	check := func(what string) header {
		t.Helper()
		h := st.send(room, what)
		if h.session != first.session {
			t.Errorf("%s made a new session", what)
		}
		reads(t, bob, h)
		return h
	}
	name := memberEvent(bob.UserID, "join")
	name.Content = json.RawMessage(`{"membership":"join","displayname":"Robert"}`)
	st.hs.Inject(room, name)
	st.told()
	check("another name")
	st.again()
	check("a restart")
	second := newPuppet(t, st.hs, "bob", "SECOND")
	own.confirm(second)
	st.told()
	reads(t, second, check("a new device"))
	cannotRead(t, second, first)
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	st.told()
	reads(t, carol, check("somebody who joined"))
	cannotRead(t, carol, first)
}

// Every Olm message carries our device keys with the signature of the owner's identity, so
// that others can judge it at once, also when we are gone: not as they were before the device
// was confirmed (requirement 6.10).
func TestDeviceKeysTravelWithMessages(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	for _, restart := range []bool{false, true} {
		if restart {
			st.again()
			st.later(8 * 24 * 3600e9)
		}
		st.send(room, "hello")
		bob.listen()
		var plain struct {
			Keys json.RawMessage `json:"sender_device_keys"`
		}
		if err := json.Unmarshal(bob.plaintexts[len(bob.plaintexts)-1], &plain); err != nil {
			t.Fatal(err)
		}
		own, err := st.dev.Own(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d, err := trustcache.ParseDevice(plain.Keys, id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID))
		if err != nil || !d.SignedBy(own.SelfSigning) || d.Curve25519 != st.target().curve25519 {
			t.Errorf("restart=%v: %s, %v", restart, plain.Keys, err)
		}
	}
	if n := len(bob.roomKeys()); n != 2 {
		t.Errorf("%d sessions, want one of each week", n)
	}
}

// A room with very many devices costs one request for so many of them, each device has one
// message in one request, and a request that failed is repeated byte for byte (requirements
// 5.1, 5.5).
func TestManyDevicesTakeFewRequests(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	const devices = 300
	for i := range devices {
		p := silentPuppet(t, st.hs, st.hs.Login("bob", "D"+strings.Repeat("x", i%7)+id.DeviceID(rawBase64([]byte{byte(i), byte(i >> 8)})).String()))
		p.upload(map[string]any{"device_keys": p.deviceKeys(), "one_time_keys": p.oneTimeKeys(1)})
		own.confirm(p)
	}
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	stop := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("PUT", "sendToDevice/m.room.encrypted/")), liar.Nth(2, liar.Fail(500, "M_UNKNOWN")))
	if _, err := st.trySend(room, "a request fails"); err == nil {
		t.Error("the message was sent although not everybody has its key")
	}
	stop()
	reads(t, bob, st.send(room, "for all"))
	got := make(map[string]int)
	bodies := make(map[string]string)
	requests := 0
	for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "sendToDevice/m.room.encrypted/"))) {
		if before, repeated := bodies[r.Path]; repeated {
			if before != string(r.Body) {
				t.Error("a repeated request says something else")
			}
			continue
		}
		bodies[r.Path] = string(r.Body)
		requests++
		var body struct {
			Messages map[string]map[string]json.RawMessage `json:"messages"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		for device := range body.Messages[bob.UserID] {
			got[device]++
		}
	}
	for device, n := range got {
		if n != 1 {
			t.Errorf("%s was sent %d messages", device, n)
		}
	}
	if len(got) != devices+1 || requests != 2 {
		t.Errorf("%d devices in %d requests", len(got), requests)
	}
	claims := st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")))
	if len(claims) != 1 {
		t.Errorf("%d claims", len(claims))
	}
}

// Whoever was about to get the key is distrusted, and somebody else there, again and again while the
// key is given away. The message begins anew for each of them and is sent.
func TestSendWhileDevicesComeAndGo(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	late := func(name string) id.DeviceID {
		p := newPuppet(t, st.hs, "bob", name)
		own.confirm(p)
		st.told()
		if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
			t.Fatal(err)
		}
		return id.DeviceID(name)
	}
	last := late("LATE")
	claims := liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$"))
	gate := liar.NewGate()
	stop := st.hs.Intercept(claims, gate.Before)
	send := st.begin(room, "to whoever is there")
	for i := range 6 {
		send.arrives(gate)
		if err := st.dev.SetOverride(t.Context(), id.UserID(bob.UserID), last, new(bool)); err != nil {
			t.Fatal(err)
		}
		last = late(fmt.Sprint("LATE", i))
		stop()
		next := liar.NewGate()
		stop = st.hs.Intercept(claims, next.Before)
		gate.Open()
		gate = next
	}
	gate.Open()
	stop()
	sent, err := send.end()
	if err != nil {
		t.Fatal(err)
	}
	reads(t, bob, sent)
}
