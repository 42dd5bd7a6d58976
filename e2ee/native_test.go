package e2ee_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// nativeStage is a homeserver that lies, and a device of alice's with keys of its own behind
// an engine: the test is its client.
type nativeStage struct {
	*rig
	alice *puppet
	own   *identity
}

func newNativeStage(t *testing.T, policy trustcache.Policy) *nativeStage {
	t.Helper()
	hs := liar.New(t)
	r := newRig(t, hs, func(o *e2ee.Options) { o.Policy = func() trustcache.Policy { return policy } })
	st := &nativeStage{rig: r}
	st.alice, st.own = confirmedPuppet(t, hs, "alice", "ALICE")
	return st
}

// client returns the engine's side of a client, as each request gets it.
func (st *nativeStage) client(s liar.Session) *e2ee.NativeClient {
	st.t.Helper()
	c, err := st.eng.Native(st.t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token), false)
	if err != nil {
		st.t.Fatal(err)
	}
	return c
}

// query has alice's client ask about users and returns the devices that it is not shown.
func (st *nativeStage) query(users ...string) []string {
	st.t.Helper()
	q := st.client(st.alice.Session).BeginQuery()
	defer q.End()
	asked := make(map[string][]string)
	for _, user := range users {
		asked[user] = []string{}
	}
	var answer struct {
		DeviceKeys  map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
		Master      map[id.UserID]json.RawMessage                 `json:"master_keys"`
		SelfSigning map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
		UserSigning map[id.UserID]json.RawMessage                 `json:"user_signing_keys"`
		Failures    map[string]json.RawMessage                    `json:"failures"`
	}
	if code := call(st.t, st.hs, st.alice.Session, http.MethodPost, "keys/query", map[string]any{"device_keys": asked}, &answer); code != http.StatusOK {
		st.t.Fatalf("keys/query answers %d", code)
	}
	hidden, err := q.Answered(st.t.Context(), &e2ee.KeyAnswer{
		DeviceKeys: answer.DeviceKeys, MasterKeys: answer.Master, SelfSigningKeys: answer.SelfSigning, UserSigningKeys: answer.UserSigning, Failures: answer.Failures,
	}, func(id.UserID) bool { return true })
	if err != nil {
		st.t.Fatal(err)
	}
	out := []string{}
	for user, devices := range hidden {
		for _, device := range devices {
			out = append(out, string(user)+" "+string(device))
		}
	}
	slices.Sort(out)
	return out
}

// message is one for a device, encrypted for its key.
func message(to *puppet) e2ee.NativeRecipient {
	return e2ee.NativeRecipient{UserID: id.UserID(to.UserID), DeviceID: id.DeviceID(to.DeviceID), Message: true, For: []string{to.curve25519.String()}}
}

// may returns which devices may get a message, and a one-time key be claimed of.
func (st *nativeStage) may(to ...*puppet) []bool {
	st.t.Helper()
	messages, claims := make([]e2ee.NativeRecipient, len(to)), make([]e2ee.NativeRecipient, len(to))
	for i, p := range to {
		messages[i] = message(p)
		claims[i] = e2ee.NativeRecipient{UserID: messages[i].UserID, DeviceID: messages[i].DeviceID}
	}
	got, err := st.client(st.alice.Session).MayGet(st.t.Context(), messages)
	if err != nil {
		st.t.Fatal(err)
	}
	keys, err := st.client(st.alice.Session).MayGet(st.t.Context(), claims)
	for i, p := range to {
		if own := p.UserID == st.alice.UserID; err != nil || keys[i] != (got[i] || own) { // own devices are shown
			st.t.Errorf("keys of %v may be claimed, messages sent to %v: %v", keys, got, err)
		}
	}
	return got
}

func (st *nativeStage) want(what string, want []bool, to ...*puppet) {
	st.t.Helper()
	if diff := cmp.Diff(want, st.may(to...)); diff != "" {
		st.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// A client with keys of its own is shown no unsigned device of others and can give it nothing,
// nor an unsigned device of its own user. A signature that arrives changes that at once for
// what it is answered, and for what it sends once the client has asked, or a minute later.
func TestNativeClientAndUnsignedDevices(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, bobs := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	mine := newPuppet(t, st.hs, "alice", "NEW")
	stranger := newPuppet(t, st.hs, "carol", "CAROL") // who has no identity
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, stranger.UserID)
	if diff := cmp.Diff([]string{bob.UserID + " SPY", stranger.UserID + " CAROL"}, st.query(st.alice.UserID, bob.UserID, stranger.UserID)); diff != "" {
		t.Errorf("hidden (-want +got):\n%s", diff)
	}
	st.want("unsigned", []bool{true, false, true, false, false}, bob, spy, st.alice, mine, stranger)

	bobs.confirm(spy)
	st.own.confirm(mine)
	st.want("within a minute, without having asked", []bool{false, false}, spy, mine)
	if hidden := st.query(st.alice.UserID, bob.UserID); len(hidden) > 0 {
		t.Errorf("once they are signed, %v are hidden", hidden)
	}
	st.want("once the client asked", []bool{true, true}, spy, mine)

	newIdentity(t, st.hs, stranger.Session).confirm(stranger)
	st.want("within a minute", []bool{false}, stranger)
	st.later(time.Minute + time.Second)
	st.want("a minute later", []bool{true}, stranger)

	wrong := message(bob)
	for what, keys := range map[string][]string{
		"for another key": {spy.curve25519.String()}, "for two keys": {bob.curve25519.String(), spy.curve25519.String()}, "for none": nil,
	} {
		wrong.For = keys
		if got, err := st.client(st.alice.Session).MayGet(t.Context(), []e2ee.NativeRecipient{wrong}); err != nil || got[0] {
			t.Errorf("a message %s leaves: %v", what, err)
		}
	}
	if err := st.client(st.alice.Session).MaySend(t.Context(), id.RoomID(room)); err != nil {
		t.Error(err)
	}
}

// Attack: the homeserver answers the client's query with one thing and the proxy's with
// another (a split view). What leaves is decided by what the proxy was answered last, and a
// key that a living device never had is believed nowhere.
func TestNativeSplitView(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, bobs := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	if hidden := st.query(bob.UserID); len(hidden) != 1 {
		t.Errorf("hidden: %v", hidden)
	}
	st.later(2 * time.Minute)
	evil := silentPuppet(t, st.hs, spy.Session)
	lie := st.hs.Intercept(liar.Is("POST", "keys/query$"), liar.Edit(func(_ *liar.Request, body map[string]any) {
		of, _ := body["device_keys"].(map[string]any)[bob.UserID].(map[string]any)
		if of != nil {
			of["BOB"] = evil.deviceKeys()
			of["SPY"] = bobs.signed(evil.deviceKeys(), newSigningKey(t))
		}
	}))
	st.want("other keys under the IDs of living devices", []bool{true, false}, bob, spy)
	sealed := message(evil)
	sealed.DeviceID = "BOB"
	if got, err := st.client(st.alice.Session).MayGet(t.Context(), []e2ee.NativeRecipient{sealed}); err != nil || got[0] {
		t.Errorf("a message for the made up key leaves: %v", err)
	}
	lie()
}

// Somebody's identity changes. With warn the client sends on, since it shows the change itself;
// with block nothing leaves for them, neither keys nor messages into rooms with them, until the
// account accepts the change with the token of that very device.
func TestNativeIdentityChanges(t *testing.T) {
	t.Parallel()
	for _, changes := range []trustcache.NativeChanges{trustcache.NativeChangesWarn, trustcache.NativeChangesBlock} {
		st := newNativeStage(t, trustcache.Policy{NativeChanges: changes})
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
		room := id.RoomID(st.hs.CreateRoom(true, st.alice.UserID, bob.UserID))
		other := id.RoomID(st.hs.CreateRoom(true, st.alice.UserID, carol.UserID))
		st.query(st.alice.UserID, bob.UserID, carol.UserID)
		st.want("before", []bool{true, true}, bob, carol)
		newIdentity(t, st.hs, bob.Session).confirm(bob)
		if hidden := st.query(bob.UserID); len(hidden) > 0 {
			t.Errorf("hidden: %v", hidden)
		}
		refused := func(err error) bool {
			changed, ok := errors.AsType[*e2ee.IdentityChangedError](err)
			return ok && slices.Equal(changed.Users, []id.UserID{id.UserID(bob.UserID)})
		}
		blocks := changes == trustcache.NativeChangesBlock
		client := st.client(st.alice.Session)
		if _, err := client.MayGet(t.Context(), []e2ee.NativeRecipient{message(carol), message(bob)}); refused(err) != blocks || !blocks && err != nil {
			t.Errorf("changes %d, a message: %v", changes, err)
		}
		if got, err := client.MayGet(t.Context(), []e2ee.NativeRecipient{message(carol)}); err != nil || !got[0] {
			t.Errorf("changes %d, a message to somebody else: %v", changes, err)
		}
		asked := len(st.hs.Requests(liar.Is("GET", "/members$")))
		if err := client.MaySend(t.Context(), room); refused(err) != blocks || !blocks && err != nil {
			t.Errorf("changes %d, into the room: %v", changes, err)
		}
		if err := client.MaySend(t.Context(), other); err != nil {
			t.Errorf("changes %d, into another room: %v", changes, err)
		}
		if n := len(st.hs.Requests(liar.Is("GET", "/members$"))); (n > asked) != blocks {
			t.Errorf("changes %d: %d lists of members were read", changes, n-asked)
		}
		dev := st.device(st.alice.Session)
		if dev.Mode() != e2ee.ModeForeign {
			t.Fatalf("alice's device is %s", dev.Mode())
		}
		w, ok := warningCodes(t, dev)["identity_changed"]
		if !ok || w.UserID != id.UserID(bob.UserID) {
			t.Errorf("the control API warns of %+v", w)
		}
		if err := dev.DismissWarning(t.Context(), w.ID); err != nil { // accepts nothing
			t.Error(err)
		}
		if err := client.MaySend(t.Context(), room); refused(err) != blocks {
			t.Errorf("changes %d, with the warning dismissed: %v", changes, err)
		}
		u, err := dev.User(t.Context(), id.UserID(bob.UserID))
		if err != nil || u.State != "changed" {
			t.Errorf("bob is %s, %v", u.State, err)
		}
		if err := dev.Acknowledge(t.Context(), id.UserID(bob.UserID), u.CurrentMasterKey); err != nil {
			t.Error(err)
		}
		if err := client.MaySend(t.Context(), room); err != nil {
			t.Errorf("changes %d, once accepted: %v", changes, err)
		}
		st.want("once accepted", []bool{true}, bob)
	}
}

// An exception that the account made counts for its clients with keys of their own.
func TestNativeOverrides(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	dev := st.device(st.alice.Session)
	for device, trusted := range map[id.DeviceID]bool{"SPY": true, "BOB": false} {
		if err := dev.SetOverride(t.Context(), id.UserID(bob.UserID), device, &trusted); err != nil {
			t.Fatal(err)
		}
	}
	st.want("with exceptions", []bool{false, true}, bob, spy)
	if diff := cmp.Diff([]string{bob.UserID + " BOB"}, st.query(bob.UserID)); diff != "" {
		t.Error(diff)
	}
	if s := status(t, dev); len(s.Overrides) != 2 || s.Policy == nil || s.Policy.Native != "enforce" {
		t.Errorf("status says %+v, %+v", s.Overrides, s.Policy)
	}
}

// A homeserver that does not answer: nobody decides, and the client tries again. Where only
// somebody's own server does not, what was known of them counts.
func TestNativeUnreachable(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.want("before", []bool{true}, bob)
	st.later(2 * time.Minute)
	down := st.hs.Intercept(liar.Is("POST", "keys/query$"), liar.Fail(http.StatusServiceUnavailable, "M_UNKNOWN"))
	if _, err := st.client(st.alice.Session).MayGet(t.Context(), []e2ee.NativeRecipient{message(bob)}); !errors.Is(err, e2ee.ErrCannotEncrypt) {
		t.Errorf("while it is down: %v", err)
	}
	down()
	st.want("as soon as it is up", []bool{true}, bob)
	st.later(2 * time.Minute)
	st.hs.Intercept(liar.Is("POST", "keys/query$"), liar.Edit(func(_ *liar.Request, body map[string]any) {
		body["device_keys"] = map[string]any{}
		body["failures"] = map[string]any{liar.ServerName: map[string]any{}}
	}))
	dave := newPuppet(t, st.hs, "dave", "DAVE")
	st.want("bob's server is down", []bool{true, false}, bob, dave)
}

// policy.native on warn: everything passes, and is counted; off: nothing is looked at.
func TestNativeWarnAndOff(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{Native: trustcache.ModeWarn, NativeChanges: trustcache.NativeChangesBlock})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	room := id.RoomID(st.hs.CreateRoom(true, st.alice.UserID, bob.UserID))
	if hidden := st.query(bob.UserID); len(hidden) > 0 {
		t.Errorf("hidden on warn: %v", hidden)
	}
	st.want("on warn", []bool{true, true}, bob, spy)
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	st.query(bob.UserID)
	st.want("after a reset, on warn", []bool{true}, bob)
	if err := st.client(st.alice.Session).MaySend(t.Context(), room); err != nil || !st.client(st.alice.Session).MayClear() {
		t.Errorf("on warn: %v", err)
	}
	s := status(t, st.device(st.alice.Session)).Policy
	if s == nil || s.Native != "warn" || s.Would == nil || s.Would.Hidden != 1 || !slices.Equal(s.Would.NativeBlockedBy, []id.UserID{id.UserID(bob.UserID)}) {
		t.Errorf("status says %+v", s)
	}
	off := newNativeStage(t, trustcache.Policy{Native: trustcache.ModeOff})
	if c := off.client(off.alice.Session); c != nil {
		t.Error("with policy.native off there is a client")
	}
}

// confirmShown signs the device of a session as the homeserver shows it.
func (i *identity) confirmShown(s liar.Session) {
	i.t.Helper()
	var shown struct {
		DeviceKeys map[string]map[string]map[string]any `json:"device_keys"`
	}
	await(i.t, "the device has no keys", func() bool {
		call(i.t, i.hs, s, http.MethodPost, "keys/query", map[string]any{"device_keys": map[string][]string{s.UserID: {}}}, &shown)
		return shown.DeviceKeys[s.UserID][s.DeviceID] != nil
	})
	keys := shown.DeviceKeys[s.UserID][s.DeviceID]
	delete(keys, "unsigned")
	body := map[string]any{s.UserID: map[string]any{s.DeviceID: i.signed(keys, i.self)}}
	if code := call(i.t, i.hs, i.owner, http.MethodPost, "keys/signatures/upload", body, nil); code != http.StatusOK {
		i.t.Fatalf("signatures/upload answers %d", code)
	}
}

// An account has a device with keys of its own first, and then one whose keys the proxy holds.
// What the first was answered is not taken for current by the second: it asks by itself, and a
// device that was removed meanwhile, of which nobody was told, gets nothing.
func TestNativeDeviceAndThenAProxiedOne(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, bobs := confirmedPuppet(t, st.hs, "bob", "BOB")
	stolen := newPuppet(t, st.hs, "bob", "STOLEN")
	bobs.confirm(stolen)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	if hidden := st.query(st.alice.UserID, bob.UserID); len(hidden) > 0 {
		t.Errorf("hidden: %v", hidden)
	}
	st.want("both", []bool{true, true}, bob, stolen)
	st.hs.EditDeviceKeys(bob.UserID, "STOLEN", func(keys map[string]any) {
		keys["signatures"] = stolen.deviceKeys()["signatures"]
	})

	second := st.hs.Login("alice", "PROXIED")
	d := st.device(second)
	settle(t, d)
	st.own.confirmShown(second)
	await(t, "the device is not signed", func() bool { return status(t, d).Identity.DeviceSigned })
	out := e2ee.Outgoing{RoomID: id.RoomID(room), Type: "m.room.message", TxnID: "t1", Content: []byte(`{"msgtype":"m.text","body":"x"}`)}
	if _, err := d.RoomEncryption(t.Context(), out.RoomID); err != nil {
		t.Fatal(err)
	}
	enc, err := d.Encrypt(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	session := headerOf(t, enc.Content).session
	if bob.roomKeys()[session] == nil {
		t.Error("bob has no key")
	}
	if stolen.roomKeys()[session] != nil {
		t.Error("a device that lost its signature was given the key")
	}
	// And the client with its own keys is shown the new device of the account, and goes on.
	if hidden := st.query(st.alice.UserID, bob.UserID); !slices.Equal(hidden, []string{bob.UserID + " STOLEN"}) {
		t.Errorf("hidden: %v", hidden)
	}
}
