package megolm

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Requirement 8.3, attacks A12 and N2, for keys that did not come over Olm: what is kept when
// a backup, a file or a forward brings a session that is there. An earlier ratchet is taken if
// it leads to the one that is there; whose the session is changes only for a better proof.
func TestMergeKept(t *testing.T) {
	t.Parallel()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	early := megolmAt(t, out)
	advance(t, out, 5)
	late := megolmAt(t, out)
	forged := *early // the right name, another ratchet
	forged.InitialRatchet.Data[0] ^= 1
	forged.Ratchet = forged.InitialRatchet

	bob := trustcache.Owner{UserID: "@bob:x", Curve25519: "b", Ed25519: "B"}
	claimed := trustcache.Owner{Curve25519: "b", Ed25519: "B"}
	attested, mallory := bob, trustcache.Owner{UserID: "@mallory:x", Curve25519: "m", Ed25519: "M", Attested: true}
	attested.Attested = true
	row := func(in *session.MegolmInboundSession, o trustcache.Owner, source store.Source, shared bool, version string) store.InboundSession {
		r := rowOf(t, in, Owner{Owner: o}, source)
		r.SessionRef = store.SessionRef{RoomID: "!r:x", SessionID: early.ID()}
		r.SharedHistory, r.BackupVersion = shared, version
		return r
	}
	const direct, backup, file, forward = store.SourceDirect, store.SourceBackup, store.SourceImport, store.SourceForwarded
	for _, tc := range []struct {
		name       string
		old, fresh store.InboundSession
		changes    bool
		index      uint32
		source     store.Source
		user       id.UserID
		version    string
		shared     bool
		more       []id.UserID // further owners
	}{
		{"the same again", row(late, claimed, backup, true, "1"), row(late, claimed, backup, true, "2"), false, 5, backup, "", "1", true, nil},
		{"a later one", row(early, claimed, backup, true, "1"), row(late, claimed, file, true, "2"), false, 0, backup, "", "1", true, nil},
		{"an earlier one", row(late, claimed, backup, true, "1"), row(early, claimed, file, true, "2"), true, 0, backup, "", "2", true, nil},
		{"an earlier one that may not be shared", row(late, claimed, backup, true, "1"), row(early, claimed, file, false, ""), true, 0, backup, "", "", false, nil},
		{"an earlier one that says it may be shared", row(late, claimed, backup, false, "1"), row(early, claimed, file, true, ""), true, 0, backup, "", "", false, nil},
		{"an earlier one that does not lead there", row(late, claimed, backup, true, "1"), row(&forged, claimed, file, true, "2"), false, 5, backup, "", "1", true, nil},
		{"an earlier one of a key that came over Olm", row(late, bob, direct, true, ""), row(early, claimed, file, true, "2"), true, 0, direct, "@bob:x", "2", true, nil},
		{"a forged one of a key that came over Olm", row(late, bob, direct, true, ""), row(&forged, mallory, backup, true, "2"), false, 5, direct, "@bob:x", "", true, nil},
		{"an attested one over a claim, later", row(early, claimed, backup, true, "1"), row(late, attested, backup, true, "2"), true, 0, backup, "@bob:x", "1", true, nil},
		{"an attested one over a claim, earlier", row(late, claimed, forward, true, "1"), row(early, attested, backup, true, "2"), true, 0, backup, "@bob:x", "2", true, nil},
		{"an attested one over a forged one", row(&forged, claimed, forward, true, "1"), row(late, attested, backup, true, "2"), true, 5, backup, "@bob:x", "2", true, nil},
		{"a claim over an attested one", row(late, attested, backup, true, "1"), row(early, trustcache.Owner{UserID: "@mallory:x", Curve25519: "m"}, file, true, "2"), true, 0, backup, "@bob:x", "2", true, nil},
		{"the same owner attested again", row(late, attested, backup, true, "1"), row(late, attested, backup, true, "2"), false, 5, backup, "@bob:x", "1", true, nil},
		{"another owner attested for the same ratchet", row(late, attested, backup, true, "1"), row(late, mallory, backup, true, "2"), true, 5, backup, "@bob:x", "", true, []id.UserID{"@mallory:x"}},
		{"another owner attested who does not share", row(late, bob, direct, true, "1"), row(late, mallory, backup, false, "2"), true, 5, direct, "@bob:x", "", false, []id.UserID{"@mallory:x"}},
		{"another owner attested for a forged one", row(late, attested, backup, true, "1"), row(&forged, mallory, backup, true, "2"), false, 5, backup, "@bob:x", "1", true, nil},
	} {
		m := NewMoreOwners(nil)
		ref := tc.old.SessionRef
		got, changes, err := MergeKept(&tc.fresh, map[store.SessionRef]store.InboundSession{ref: tc.old}, m)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		owner := ReadOwner(got.Owner)
		if changes != tc.changes || got.FirstIndex != tc.index || got.Source != tc.source || owner.UserID != tc.user || got.BackupVersion != tc.version || got.SharedHistory != tc.shared {
			t.Errorf("%s: changed %v, index %d from %s of %q, backup %q, shared %v", tc.name, changes, got.FirstIndex, got.Source, owner.UserID, got.BackupVersion, got.SharedHistory)
		}
		kept := &session.MegolmInboundSession{}
		if err := kept.UnpickleLibOlm(got.Pickle.Reveal()); err != nil || kept.FirstKnownIndex() != tc.index {
			t.Errorf("%s: the ratchet begins at %d, %v", tc.name, kept.FirstKnownIndex(), err)
		}
		if tc.index == 5 && kept.InitialRatchet.Data != late.InitialRatchet.Data {
			t.Errorf("%s: it is a forged ratchet", tc.name)
		}
		var more []id.UserID
		for at := range m.moved {
			more = append(more, at.UserID)
		}
		if !slices.Equal(more, tc.more) || owner.Contested != (len(tc.more) > 0) {
			t.Errorf("%s: further owners are %v, contested %v", tc.name, more, owner.Contested)
		}
	}
	fresh := row(late, claimed, backup, true, "1")
	if got, changes, err := MergeKept(&fresh, nil, NewMoreOwners(nil)); err != nil || !changes || got.SessionRef != fresh.SessionRef {
		t.Errorf("a session that is new: %v, %v", changes, err)
	}
}

// A stored key that is damaged is an error wherever it is compared: it is not overwritten by
// what a backup, or the next message, brings.
func TestMergeWithDamagedKeys(t *testing.T) {
	t.Parallel()
	in, _ := aKey(t)
	good := rowOf(t, in, Owner{Owner: trustcache.Owner{UserID: "@bob:x", Curve25519: "b", Ed25519: "B"}}, store.SourceBackup)
	for name, pickle := range map[string]secret.Bytes{"nothing": nil, "half": good.Pickle[:40], "no pickle": secret.Bytes("!!")} {
		bad := good
		bad.Pickle = pickle
		arrived := Arrived{Ref: good.SessionRef, Session: in, Owner: ReadOwner(good.Owner).Owner}
		m := NewMoreOwners(nil)
		if got, err := Merge(arrived, bad); err == nil || got.SessionID != "" {
			t.Errorf("%s: a key from Olm is merged", name)
		}
		if got, err := AddOwner(arrived, bad, m, nil); err == nil || got.SessionID != "" {
			t.Errorf("%s: an owner is added", name)
		}
		if _, changes, err := MergeKept(&good, map[store.SessionRef]store.InboundSession{good.SessionRef: bad}, m); err == nil || changes {
			t.Errorf("%s: a key from a backup is merged", name)
		}
		if _, changes, err := MergeKept(&bad, map[store.SessionRef]store.InboundSession{good.SessionRef: good}, m); err == nil || changes {
			t.Errorf("%s: it is merged", name)
		}
		if len(m.moved) > 0 {
			t.Errorf("%s: it has owners", name)
		}
	}
}

// Which sessions of a download name an owner that may have to be added: attested, named, and
// there already.
func TestAttestedAgain(t *testing.T) {
	t.Parallel()
	in, _ := aKey(t)
	row := func(session id.SessionID, o trustcache.Owner) store.InboundSession {
		r := rowOf(t, in, Owner{Owner: o}, store.SourceBackup)
		r.SessionID = session
		return r
	}
	bob := trustcache.Owner{UserID: "@bob:x", Attested: true}
	rows := []store.InboundSession{
		row("known", bob), row("new", bob), row("claimed", trustcache.Owner{UserID: "@bob:x"}), row("nameless", trustcache.Owner{Attested: true}),
		{SessionRef: store.SessionRef{RoomID: "!r:x", SessionID: "damaged"}, Owner: secret.Bytes("{")},
	}
	known := make(map[store.SessionRef]store.InboundSession)
	for _, r := range rows {
		if r.SessionID != "new" {
			known[r.SessionRef] = r
		}
	}
	want := []store.OwnersRef{{SessionRef: rows[0].SessionRef, UserID: "@bob:x"}}
	if got := AttestedAgain(rows, known); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Further owners go to the store and come back: only what changed is written, and a row that
// is damaged has nobody in it.
func TestStoredMoreOwners(t *testing.T) {
	t.Parallel()
	ref := store.SessionRef{RoomID: "!r:x", SessionID: "s"}
	at := func(user id.UserID) store.OwnersRef { return store.OwnersRef{SessionRef: ref, UserID: user} }
	before, err := WriteOwners([]trustcache.Owner{ownerOf("@carol:x", "C", true)})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[store.OwnersRef]secret.Bytes{at("@carol:x"): before, at("@dave:x"): secret.Bytes(`{"user_id":"@dave:x"}`), at("@erin:x"): nil}
	m := NewMoreOwners(rows)
	if len(m.Of(at("@carol:x"))) != 1 || len(m.Of(at("@dave:x"))) != 0 || len(m.Of(at("@erin:x"))) != 0 || len(m.Of(at("@bob:x"))) != 0 {
		t.Errorf("loaded are %v", m.lists)
	}
	if !m.add(ref, ownerOf("@bob:x", "B", false), nil) || !m.add(ref, ownerOf("@bob:x", "B2", true), nil) || m.add(ref, ownerOf("@carol:x", "C", true), nil) {
		t.Error("the wrong ones are new")
	}
	var ch store.Changes
	if err := m.Collect(&ch); err != nil {
		t.Fatal(err)
	}
	if len(ch.MoreOwners) != 1 || ch.MoreOwners[0].OwnersRef != at("@bob:x") {
		t.Fatalf("written are %v", ch.MoreOwners)
	}
	again := NewMoreOwners(map[store.OwnersRef]secret.Bytes{at("@bob:x"): ch.MoreOwners[0].Owners})
	want, err := json.Marshal(m.Of(at("@bob:x")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(again.Of(at("@bob:x"))); err != nil || !bytes.Equal(got, want) || len(again.Of(at("@bob:x"))) != 2 {
		t.Errorf("%s came back as %s, %v", want, got, err)
	}
	ch = store.Changes{}
	if err := again.Collect(&ch); err != nil || len(ch.MoreOwners) != 0 {
		t.Errorf("without a change %v are written, %v", ch.MoreOwners, err)
	}
}
