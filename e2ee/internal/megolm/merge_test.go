package megolm

import (
	"errors"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// megolmAt makes an inbound session from an outbound one, at its current index.
func megolmAt(t *testing.T, out *session.MegolmOutboundSession) *session.MegolmInboundSession {
	t.Helper()
	key, err := out.SessionSharingMessage()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.NewMegolmInboundSession(key)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func advance(t *testing.T, out *session.MegolmOutboundSession, n int) {
	t.Helper()
	for range n {
		if _, err := out.Encrypt([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

// Requirement 8.3, attacks A12 and N2: what is kept of two keys for one session.
func TestMergeRoomKey(t *testing.T) {
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

	alice := trustcache.Owner{UserID: "@alice:x", Curve25519: "a", Ed25519: "A"}
	confirmed := alice
	confirmed.Signed, confirmed.Accepted, confirmed.Master = true, true, "M"
	attested := confirmed
	attested.Attested = true
	nameless := trustcache.Owner{Curve25519: alice.Curve25519, Ed25519: alice.Ed25519, Attested: true}
	mallory := trustcache.Owner{UserID: "@mallory:x", Curve25519: "m", Ed25519: "M"}
	ref := store.SessionRef{RoomID: "!r:x", SessionID: early.ID()}
	stored := func(sess *session.MegolmInboundSession, o trustcache.Owner, source store.Source) store.InboundSession {
		raw, err := WriteOwner(o)
		if err != nil {
			t.Fatal(err)
		}
		return store.InboundSession{
			SessionRef: ref, Pickle: sess.PickleLibOlm(), Owner: raw, Source: source, FirstIndex: sess.FirstKnownIndex(),
		}
	}
	for _, tc := range []struct {
		name      string
		old       store.InboundSession
		sess      *session.MegolmInboundSession
		owner     trustcache.Owner
		wantErr   error
		wantIndex uint32
		wantOwner id.UserID
	}{
		{"first key", store.InboundSession{}, late, alice, nil, 5, alice.UserID},
		{"lower index of the same owner", stored(late, alice, store.SourceDirect), early, alice, nil, 0, alice.UserID},
		{"lower index of the same owner, who was confirmed", stored(late, confirmed, store.SourceDirect), early, alice, nil, 0, alice.UserID},
		{"higher index of the same owner", stored(early, alice, store.SourceDirect), late, alice, errKeyKnown, 0, ""},
		{"same index again", stored(early, alice, store.SourceDirect), early, alice, errKeyKnown, 0, ""},
		{"lower index of another owner", stored(late, alice, store.SourceDirect), early, mallory, ErrAnothersKey, 0, ""},
		{"lower index that does not lead to what we have", stored(late, alice, store.SourceDirect), &forged, alice, errKeyKnown, 0, ""},
		{"direct after a backup: its owner, the backup's earlier ratchet", stored(early, mallory, store.SourceBackup), late, alice, nil, 0, alice.UserID},
		{"direct after a forged backup: nothing of the backup", stored(&forged, mallory, store.SourceBackup), late, alice, nil, 5, alice.UserID},
		{"direct after a later backup", stored(late, mallory, store.SourceImport), early, alice, nil, 0, alice.UserID},
		{"direct of another owner than a backup of ours attests", stored(late, attested, store.SourceBackup), early, mallory, ErrAnothersKey, 0, ""},
		{"direct of another device than a backup attests", stored(late, nameless, store.SourceBackup), early, mallory, ErrAnothersKey, 0, ""},
		{"direct of the device that a backup attests", stored(late, nameless, store.SourceBackup), early, alice, nil, 0, alice.UserID},
		{"direct of the owner that a backup of ours attests", stored(late, attested, store.SourceBackup), early, alice, nil, 0, alice.UserID},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Merge(Arrived{Ref: ref, Session: tc.sess, Owner: tc.owner}, tc.old)
			if tc.wantErr != nil {
				if !errors.Is(err, tc.wantErr) {
					t.Fatalf("kept at index %d, %v", got.FirstIndex, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.FirstIndex != tc.wantIndex || WhoseOwner(got.Owner).UserID != tc.wantOwner || got.Source != store.SourceDirect {
				t.Errorf("index %d, owner %s, source %s", got.FirstIndex, WhoseOwner(got.Owner).UserID, got.Source)
			}
			before := WhoseOwner(tc.old.Owner)
			if now := WhoseOwner(got.Owner); before.Signed && (!now.Signed || !now.Accepted || now.Master != before.Master) {
				t.Errorf("what was proven of the owner is lost: %+v", now)
			}
			kept := &session.MegolmInboundSession{}
			if err := kept.UnpickleLibOlm(got.Pickle.Reveal()); err != nil || kept.FirstKnownIndex() != tc.wantIndex {
				t.Errorf("pickle starts at %d, %v", kept.FirstKnownIndex(), err)
			}
		})
	}
}
