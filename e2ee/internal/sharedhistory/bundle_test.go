package sharedhistory

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	room = "!room:example.org"
	by   = "@bob:example.org"
	// Any 32 bytes will do for keys that are only named.
	curve = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaEA"
	ed    = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbA"
)

// newRow returns a room key as it is stored.
func newRow(t *testing.T, shared bool, owner trustcache.Owner) store.InboundSession {
	t.Helper()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	exported, err := out.SessionSharingMessage()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.NewMegolmInboundSession(exported)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := megolm.WriteOwner(owner)
	if err != nil {
		t.Fatal(err)
	}
	return store.InboundSession{
		SessionRef: store.SessionRef{RoomID: room, SessionID: in.ID()}, Pickle: in.PickleLibOlm(), Owner: raw,
		Source: store.SourceDirect, SharedHistory: shared,
	}
}

// readAll reads a bundle about the room.
func readAll(raw []byte) (*reader, []store.InboundSession, error) {
	var rows []store.InboundSession
	r := &reader{room: room, by: by, key: func(row store.InboundSession) error { rows = append(rows, row); return nil }}
	return r, rows, r.read(raw)
}

// What is written is read: keys as they were, shareable, of a source of their own, with the
// owner that was named and who shared them; and the reasons for the others.
func TestBundleIsReadAsWritten(t *testing.T) {
	t.Parallel()
	known := trustcache.Owner{UserID: "@carol:example.org", Curve25519: curve, Ed25519: ed, Signed: true}
	mine, closed := newRow(t, true, known), newRow(t, false, known)
	key, shared, err := entryOf(&mine)
	if err != nil || !shared {
		t.Fatalf("shared %t, %v", shared, err)
	}
	note, shared, err := entryOf(&closed)
	if err != nil || shared {
		t.Fatalf("shared %t, %v", shared, err)
	}
	for _, secret := range []string{"carol", "signed", "session_key"} {
		if strings.Contains(string(note), secret) {
			t.Errorf("what is said of a key that is not shared: %s", note)
		}
	}
	r, rows, err := readAll(writeBundle([][]byte{key}, [][]byte{note}))
	if err != nil || len(rows) != 1 || len(r.notes) != 1 {
		t.Fatalf("%d keys, %d notes, %v", len(rows), len(r.notes), err)
	}
	got, owner := rows[0], megolm.ReadOwner(rows[0].Owner)
	if got.SessionRef != mine.SessionRef || got.Source != store.SourceBundle || !got.SharedHistory || got.FirstIndex != 0 {
		t.Errorf("the key is %+v", got)
	}
	want := megolm.Owner{Owner: trustcache.Owner{Curve25519: curve, Ed25519: ed}, SharedBy: by}
	if diff := cmp.Diff(want, owner); diff != "" {
		t.Errorf("its owner (-want +got):\n%s", diff)
	}
	if n := r.notes[0]; n.SessionRef != closed.SessionRef || n.Code != codeNotShared {
		t.Errorf("the note is %+v", n)
	}
}

// A key of whose maker nothing is known, or nothing that others could read, is left out: some
// clients refuse a whole bundle because of it.
func TestKeysOfNobodyAreLeftOut(t *testing.T) {
	t.Parallel()
	for _, owner := range []trustcache.Owner{{}, {Curve25519: curve}, {Ed25519: ed}, {Curve25519: "claimed", Ed25519: ed}, {Curve25519: curve, Ed25519: "claimed"}, {Curve25519: curve + "=", Ed25519: ed}} {
		for _, shared := range []bool{true, false} {
			row := newRow(t, shared, owner)
			if entry, _, err := entryOf(&row); entry != nil || err != nil {
				t.Errorf("%+v: %s, %v", owner, entry, err)
			}
		}
	}
}

// If there are too many keys the newest are shared.
func TestNewestKeys(t *testing.T) {
	t.Parallel()
	var all []dated
	for i := range 10 {
		row := store.InboundSession{}
		row.ReceivedAt = row.ReceivedAt.AddDate(0, 0, i*7%10)
		all = append(all, dated{entry: []byte{byte(i * 7 % 10)}, at: row.ReceivedAt})
	}
	if got := newest(all, 3, 10); len(got) != 10 {
		t.Errorf("%d are left of as many as may be", len(got))
	}
	if diff := cmp.Diff([][]byte{{9}, {8}, {7}}, entries(newest(all, 3, 9))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzReadBundle(f *testing.F) {
	f.Add([]byte(`{"room_keys":[{"algorithm":"m.megolm.v1.aes-sha2","room_id":"` + room + `","session_id":"x","session_key":"AQ","sender_key":"` + curve + `"}],"withheld":null}`))
	f.Add([]byte(`{"withheld":[{"room_id":"` + room + `","session_id":"x","code":"m.history_not_shared","reason":"r"},7,[]],"x":{}}`))
	f.Add([]byte(`{"room_keys":{},"room_keys":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, rows, err := readAll(raw)
		for _, row := range rows {
			if row.RoomID != room || row.Source != store.SourceBundle || megolm.ReadOwner(row.Owner).SharedBy != by {
				t.Errorf("a key of %s, %s", row.RoomID, row.Source)
			}
		}
		for _, n := range r.notes {
			if n.RoomID != room || n.Code == "" || len(n.SessionID) > 255 {
				t.Errorf("a note %+v", n)
			}
		}
		if err == nil && !json.Valid(raw) && !strings.Contains(string(raw), "}") {
			t.Errorf("%q is read", raw)
		}
	})
}
