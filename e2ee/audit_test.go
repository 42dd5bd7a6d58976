package e2ee_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testdb"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// audited returns the records of the log that are of a kind, of all if it is empty.
func (r *rig) audited(kind audit.Kind) (all []*audit.Record) {
	r.t.Helper()
	for stored, err := range r.db.AuditLog().Records(r.t.Context(), 0) {
		if err != nil || stored.Err != nil {
			r.t.Fatal(err, stored.Err)
		}
		one, err := audit.Decode(stored.Data)
		if err != nil {
			r.t.Fatal(err)
		}
		if kind == "" || one.Kind == kind {
			all = append(all, one)
		}
	}
	return all
}

// outcomes returns what records say of each device.
func outcomes(records []*audit.Record) string {
	var all []string
	for _, r := range records {
		for _, u := range r.Users {
			for _, d := range u.Devices {
				all = append(all, strings.Trim(fmt.Sprintf("%s %s %s %s %s", u.ID, d.Device, d.Outcome, d.Rule, d.Code), " "))
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// Who was given the key of a room, and who was not, is written down once for each device and
// session, with its keys, the chain by which it was judged, the rule and the policy; what was
// said is not, nor is a key that is not public.
func TestAuditOfKeyShares(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	odd := newPuppet(t, st.hs, "bob", "ODD")
	wish := silentPuppet(t, st.hs, st.hs.Login("bob", "WISH"))
	keys := wish.deviceKeys()
	delete(keys, "signatures")
	keys["org.matrix.msc4261.do_not_encrypt"] = true
	wish.upload(map[string]any{"device_keys": wish.sign(keys)})
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := len(st.audited(""))
	h := st.send(room, "hello")
	records := st.audited("")[before:]
	if len(records) != 1 {
		t.Fatalf("%d records for one share", len(records))
	}
	r := records[0]
	if r.Kind != audit.KindRoomKey || r.Account != st.alice.UserID || r.Device != st.alice.DeviceID || r.Ed25519 != st.target().ed25519.String() ||
		r.Room != room || r.Session != audit.HashSession(h.session) || r.Index != 0 || r.Policy != "policy of the test" || r.At.IsZero() {
		t.Errorf("%+v", r)
	}
	want := bob.UserID + " BOB given signed\n" + bob.UserID + " ODD withheld unsigned m.unverified\n" + bob.UserID + " WISH refused do_not_encrypt"
	if got := outcomes(records); got != want {
		t.Errorf("written down:\n%s\nwant\n%s", got, want)
	}
	for _, u := range r.Users {
		if u.Pin != "pinned" || u.Master != publicKey(own.master) || u.SelfSigning != publicKey(own.self) {
			t.Errorf("the chain of %s: %+v", u.ID, u)
		}
		for _, d := range u.Devices {
			if d.Device == "BOB" && (d.Ed25519 != bob.ed25519.String() || d.Curve25519 != bob.curve25519.String()) {
				t.Errorf("the keys of %s: %+v", d.Device, d)
			}
		}
	}
	st.send(room, "nothing new is decided")
	if got := st.audited("")[before:]; len(got) != 1 {
		t.Errorf("nobody was given anything, and it says:\n%s", outcomes(got[1:]))
	}
	own.confirm(odd)
	st.told()
	st.send(room, "for the odd device too")
	if got := outcomes(st.audited("")[before+1:]); got != bob.UserID+" ODD given signed" {
		t.Errorf("a device that was confirmed later:\n%s", got)
	}
	if r := st.audited("")[before+1]; r.Index != 2 || r.Session != audit.HashSession(h.session) {
		t.Errorf("from which message on it can read: %+v", r)
	}
	for _, r := range st.audited("") {
		if raw := r.Encode(); bytes.Contains(raw, []byte("hello")) || bytes.Contains(raw, []byte(h.session)) {
			t.Errorf("a record says too much: %s", raw)
		}
	}
}

// Under a policy that only warns, a device that is not confirmed is given the key, and the
// record says by which rule.
func TestAuditOfAPolicyThatWarns(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) {
		o.Policy = func() trustcache.Policy { return trustcache.Policy{Send: trustcache.ModeWarn} }
	})
	bob := newPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "hello")
	if got := outcomes(st.audited(audit.KindRoomKey)); got != bob.UserID+" BOB given not_enforced" {
		t.Error(got)
	}
}

// A full disk stops sharing, not logging: if the record cannot be written, no key leaves.
func TestAuditThatCannotBeWrittenStopsSharing(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	hook := &testdb.Hook{}
	hook.Watch(func(statement string) error {
		if full.Load() && strings.HasPrefix(statement, "INSERT INTO audit_records") {
			return errors.New("database or disk is full")
		}
		return nil
	})
	alice := aliceInOrder(t)
	st := stageOn(alice.rig(t, func(o *store.Options) { o.Wrap = hook.Wrap }, unspread(nil)), alice.session)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	full.Store(true)
	if _, err := st.trySend(room, "nobody gets the key"); err == nil {
		t.Error("it was sent")
	}
	if bob.listen(); len(bob.roomKeys()) != 0 {
		t.Errorf("bob has %v", bob.roomKeys())
	}
	if n := len(st.hs.Requests(liar.Is(http.MethodPut, "rooms/"+room+"/send/m.room.encrypted"))); n != 0 {
		t.Errorf("%d messages", n)
	}
	var out bytes.Buffer
	if err := st.dev.ExportKeys(t.Context(), secret.NewString("a passphrase"), &out); err == nil || out.Len() != 0 {
		t.Errorf("room keys were exported, %d bytes: %v", out.Len(), err)
	}
	if key, err := st.dev.RecoveryKey(t.Context()); err == nil || !key.IsZero() {
		t.Errorf("the recovery key was given away: %v", err)
	}
	native := &nativeStage{rig: st.rig, alice: newPuppet(t, st.hs, "alice", "NATIVE")}
	if may, err := native.client(native.alice.Session).MayGet(t.Context(), []e2ee.NativeRecipient{message(bob)}); err == nil {
		t.Errorf("a client with keys of its own may give %v", may)
	}
	full.Store(false)
	reads(t, bob, st.send(room, "and now he does"))
}

// What other devices ask for is written down too: a room key or a secret that was given, and
// what was refused, with the reason.
func TestAuditOfRequests(t *testing.T) {
	t.Parallel()
	first, _, _, room := lateDevice(t)
	sessions, err := first.dev.InboundSessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref := slices.IndexFunc(sessions, func(s store.InboundSession) bool { return s.RoomID == id.RoomID(room) })
	ask := func(device string) {
		t.Helper()
		first.hs.SendToDevice(first.UserID, "FIRST", first.UserID, "m.room_key_request", map[string]any{
			"action": "request", "request_id": "key for " + device, "requesting_device_id": device,
			"body": map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": sessions[ref].SessionID},
		})
		first.hs.SendToDevice(first.UserID, "FIRST", first.UserID, "m.secret.request", map[string]string{
			"action": "request", "request_id": "secret for " + device, "requesting_device_id": device, "name": "m.cross_signing.master",
		})
		if err := first.dev.SyncNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.dev.Maintain(t.Context())
	}
	for _, device := range []string{"STRAY", "NONE", "LATE"} {
		ask(device)
	}
	want := first.UserID + " LATE given signed\n" + first.UserID + " NONE refused unknown_device\n" + first.UserID + " STRAY refused unsigned"
	for _, kind := range []audit.Kind{audit.KindForwardedKey, audit.KindSecret} {
		all := first.rig.audited(kind)
		if got := outcomes(all); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", kind, got, want)
		}
		for _, r := range all {
			if kind == audit.KindSecret && r.Secret != "m.cross_signing.master" || kind == audit.KindForwardedKey && (r.Room != room || r.Session != audit.HashSession(sessions[ref].SessionID.String())) {
				t.Errorf("%+v", r)
			}
		}
	}
}

// An account that answers no requests for secrets says so in the log.
func TestAuditOfIgnoredRequests(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{IgnoreSecretRequests: true} }
	})
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, st.alice.UserID, "m.secret.request", map[string]string{
		"action": "request", "request_id": "r", "requesting_device_id": "OTHER", "name": "m.cross_signing.master",
	})
	st.told()
	st.dev.Maintain(t.Context())
	if got := outcomes(st.audited(audit.KindSecret)); got != st.alice.UserID+" OTHER refused requests_ignored" {
		t.Error(got)
	}
}

// Whoever is invited and gets the keys of the history is written down, with the devices that
// do not get them.
func TestAuditOfHistory(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	newPuppet(t, st.hs, "bob", "ODD")
	room, _ := st.ownRoom("shared")
	st.share(room, bob)
	all := st.audited(audit.KindHistory)
	if got := outcomes(all); got != bob.UserID+" BOB given signed\n"+bob.UserID+" ODD refused unsigned" || all[0].Room != room {
		t.Errorf("%+v:\n%s", all, got)
	}
}

// What people do with an account's keys and trust is written down with it.
func TestAuditOfAdministration(t *testing.T) {
	t.Parallel()
	st := newbornStage(t, nil)
	ctx := t.Context()
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	odd := newPuppet(t, st.hs, "bob", "ODD")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "hello")
	st.override(odd, new(true))
	st.override(odd, new(false))
	st.override(odd, nil)
	other := newIdentity(t, st.hs, bob.Session)
	st.told()
	if err := st.dev.Acknowledge(ctx, idUser(bob.UserID), id.Ed25519(publicKey(other.master))); err != nil {
		t.Fatal(err)
	}
	key := recoveryKey(t, st.dev)
	if err := st.dev.Recover(ctx, e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := st.dev.ExportCheaply(ctx, secret.NewString("a passphrase"), &file); err != nil {
		t.Fatal(err)
	}
	if _, err := st.dev.ImportKeys(ctx, secret.NewString("a passphrase"), e2ee.KeyFile(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	if _, err := st.dev.Reset(ctx, e2ee.UserAuth{Password: secret.NewString("password of alice")}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range st.audited("") {
		if r.Kind == audit.KindRoomKey {
			continue
		}
		if r.Account != st.alice.UserID || r.Device != st.alice.DeviceID {
			t.Errorf("who did it: %+v", r)
		}
		note, _, _ := strings.Cut(r.Note, " ")
		got = append(got, strings.Trim(string(r.Kind)+" "+note, " "))
	}
	want := "identity_created master, override trusted, override distrusted, override removed, identity_acknowledged, recovery_key_read, " +
		"identity_recovered master, room_keys_exported, room_keys_imported, identity_reset master"
	if strings.Join(got, ", ") != want {
		t.Errorf("written down:\n%s\nwant\n%s", strings.Join(got, ", "), want)
	}
	if r := st.audited(audit.KindAcknowledged)[0]; r.Users[0].ID != bob.UserID || r.Users[0].Master != publicKey(other.master) || r.Users[0].Pin != "pinned" {
		t.Errorf("%+v", r)
	}
	if r := st.audited(audit.KindOverride)[0]; outcomes([]*audit.Record{r}) != bob.UserID+" ODD changed trusted" || r.Users[0].Devices[0].Ed25519 != odd.ed25519.String() {
		t.Errorf("%+v", r)
	}
}
