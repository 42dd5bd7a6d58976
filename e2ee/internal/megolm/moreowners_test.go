package megolm

import (
	"errors"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

func ownerOf(user id.UserID, device string, signed bool) trustcache.Owner {
	return trustcache.Owner{
		UserID: user, DeviceID: id.DeviceID(device), Curve25519: id.Curve25519("c" + device), Ed25519: id.Ed25519("e" + device), Signed: signed,
	}
}

func listed(m *MoreOwners, ref store.SessionRef, user id.UserID) (devices []string) {
	for _, o := range m.lists[store.OwnersRef{SessionRef: ref, UserID: user}] {
		devices = append(devices, o.DeviceID.String())
	}
	return devices
}

// What is kept of those who claim a session beside its first owner. Users have places of
// their own, without end; a user's devices have a few, and one that its owner has signed is
// never given up.
func TestMoreOwnersAreBounded(t *testing.T) {
	t.Parallel()
	ref := store.SessionRef{RoomID: "!r:x", SessionID: "s"}
	m := NewMoreOwners(nil)
	for i := range 50 {
		user := id.UserID(fmt.Sprintf("@mallory%d:x", i))
		if !m.add(ref, ownerOf(user, "M", true), nil) {
			t.Errorf("%s is not added", user)
		}
	}
	for i := range 2 * maxOwnersOfUser {
		if added := m.add(ref, ownerOf("@bob:x", fmt.Sprint("SPY", i), false), nil); added != (i < maxOwnersOfUser) {
			t.Errorf("unsigned device %d: added %v", i, added)
		}
	}
	for i := range 2 * maxOwnersOfUser {
		if added := m.add(ref, ownerOf("@bob:x", fmt.Sprint("OWN", i), true), nil); added != (i < maxOwnersOfUser) {
			t.Errorf("signed device %d: added %v", i, added)
		}
	}
	if m.add(ref, ownerOf("@bob:x", "LATE", false), nil) || m.add(ref, ownerOf("@bob:x", "OWN0", true), nil) {
		t.Error("an unsigned device, or one that is there, is news")
	}
	if m.add(ref, trustcache.Owner{Curve25519: "c", Ed25519: "e", Attested: true}, nil) {
		t.Error("an owner of whom the user is not known is added")
	}
	if got := fmt.Sprint(listed(m, ref, "@bob:x")); got != "[OWN0 OWN1 OWN2 OWN3]" {
		t.Error(got)
	}
	if got := fmt.Sprint(listed(m, ref, "@mallory0:x")); got != "[M]" {
		t.Error(got)
	}
	if len(m.moved) != 51 {
		t.Errorf("%d rows are written", len(m.moved))
	}
}

// A device that was not known to be signed when it sent its key takes its own place once
// it is, and is asked about again before it is given up.
func TestMoreOwnersBecomeKnown(t *testing.T) {
	t.Parallel()
	ref := store.SessionRef{RoomID: "!r:x", SessionID: "s"}
	m := NewMoreOwners(nil)
	bob := &trustcache.User{UserID: "@bob:x", Knowledge: trustcache.KnowledgeFresh, Devices: []trustcache.Device{{
		UserID: "@bob:x", DeviceID: "OWN", Curve25519: "cOWN", Ed25519: "eOWN", Signed: true, Raw: []byte(`{}`),
	}}}
	m.add(ref, ownerOf("@bob:x", "OWN", false), nil)
	for i := range maxOwnersOfUser + 2 {
		m.add(ref, ownerOf("@bob:x", fmt.Sprint("SIGNED", i), true), bob)
	}
	if got := listed(m, ref, "@bob:x"); len(got) != maxOwnersOfUser || got[0] != "OWN" {
		t.Errorf("the owner was given up: %v", got)
	}
}

// What a room key does to a session that somebody else has shown to be theirs: an earlier
// ratchet is taken if it leads to the one that is there, and nothing else of the row changes
// but that it says so, and what it says of the history.
func TestAddOwner(t *testing.T) {
	t.Parallel()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	early := megolmAt(t, out)
	advance(t, out, 5)
	late := megolmAt(t, out)
	forged := *early
	forged.InitialRatchet.Data[0] ^= 1
	forged.Ratchet = forged.InitialRatchet
	ref := store.SessionRef{RoomID: "!r:x", SessionID: early.ID()}
	stored := func(sess *session.MegolmInboundSession) store.InboundSession {
		owner, err := WriteOwner(ownerOf("@mallory:x", "M", true))
		if err != nil {
			t.Fatal(err)
		}
		return store.InboundSession{
			SessionRef: ref, Pickle: sess.PickleLibOlm(), Owner: owner, Source: store.SourceDirect,
			FirstIndex: sess.FirstKnownIndex(), SharedHistory: true, BackupVersion: "7",
		}
	}
	for _, tc := range []struct {
		name      string
		old       *session.MegolmInboundSession
		sess      *session.MegolmInboundSession
		refused   bool
		wantIndex uint32
	}{
		{"the same", late, late, false, 5},
		{"a later one", early, late, false, 0},
		{"an earlier one", late, early, false, 0},
		{"one that does not lead to it", late, &forged, true, 5},
		{"one to which it does not lead", &forged, late, true, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := NewMoreOwners(nil)
			k := Arrived{Ref: ref, Session: tc.sess, Owner: ownerOf("@bob:x", "B", true)}
			got, err := AddOwner(k, stored(tc.old), m, nil)
			if tc.refused {
				if !errors.Is(err, errKeyKnown) || len(m.moved) > 0 {
					t.Errorf("%v, %d owners", err, len(m.moved))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			owner := ReadOwner(got.Owner)
			if !owner.Contested || owner.UserID != "@mallory:x" || got.SharedHistory || got.BackupVersion != "" || got.FirstIndex != tc.wantIndex {
				t.Errorf("row: %+v, owner %+v", got, owner)
			}
			kept := &session.MegolmInboundSession{}
			if err := kept.UnpickleLibOlm(got.Pickle.Reveal()); err != nil || kept.FirstKnownIndex() != tc.wantIndex {
				t.Errorf("pickle starts at %d, %v", kept.FirstKnownIndex(), err)
			}
			if got := fmt.Sprint(listed(m, ref, "@bob:x")); got != "[B]" {
				t.Error(got)
			}
			if _, err := AddOwner(k, got, m, nil); !errors.Is(err, errKeyKnown) {
				t.Errorf("once more: %v", err)
			}
		})
	}
}
