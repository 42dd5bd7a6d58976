package olm

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// The session that a message was last received with is the one that is sent with; of those
// with one device six are kept, and the ones used longest ago go (requirements 6.5, 6.6).
func TestOlmSessionsOfOneDevice(t *testing.T) {
	t.Parallel()
	const key = id.Curve25519("their key")
	start := time.Unix(1_800_000_000, 0)
	all := &Sessions{byKey: make(map[id.Curve25519][]*storedSession), dirty: make(map[*storedSession]bool)}
	theirs, err := NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	dev := &trustcache.Device{Curve25519: key, Ed25519: "their signing key"}
	add := func() {
		t.Helper()
		if err := theirs.GenOneTimeKeys(1); err != nil {
			t.Fatal(err)
		}
		oneTime := theirs.OTKeys[len(theirs.OTKeys)-1].Key.PublicKey.B64Encoded()
		var s *session.OlmSession
		if s, err = ours.NewOutbound(theirs.Curve25519, oneTime); err != nil {
			t.Fatal(err)
		}
		all.Add(dev, s, start.Add(time.Duration(len(made))*time.Hour))
		made = append(made, s.ID().String())
	}
	for range maxSessionsPerDevice {
		add()
	}
	oldest := all.byKey[key][maxSessionsPerDevice-1]
	if oldest.row.SessionID != made[0] {
		t.Fatalf("the oldest is %s, want %s", oldest.row.SessionID, made[0])
	}
	all.used(key, oldest, start.Add(24*time.Hour))
	if first := all.byKey[key][0]; first != oldest || !first.row.LastReceivedAt.Equal(start.Add(24*time.Hour)) {
		t.Error("the session that received last is not the first")
	}
	add()
	var ch store.Changes
	all.Collect(&ch, &Steps{})
	if len(all.byKey[key]) != maxSessionsPerDevice || len(ch.DeleteOlmSessions) != 1 || ch.DeleteOlmSessions[0] != made[1] {
		t.Errorf("%d are kept, %v are deleted, want %s", len(all.byKey[key]), ch.DeleteOlmSessions, made[1])
	}
	if len(ch.OlmSessions) != maxSessionsPerDevice {
		t.Errorf("%d are stored", len(ch.OlmSessions))
	}
}

// Attack A16: many devices claim a key that is another's, and sessions are begun with each of them.
// Those that the key's owner has used stay, and all of them are few. Two devices of which it is not
// known whose a session is get no message with one and the same key.
func TestSessionsOfAClaimedKey(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB")
	bob.begins(alice, alice.seal(bob, "hello", bob.oneTimeKey()), "hello")
	alice.reads(bob, bob.seal(alice, "hello yourself", ""), "hello yourself")
	alice.all.IsWith(bob.dev.Curve25519, bob.dev.Ed25519)
	for i := range 40 {
		twin := newEnd(t, id.UserID(fmt.Sprintf("@mallory%d:x", i)), "TWIN")
		oneTime := twin.oneTimeKey()
		twin.dev.Curve25519 = bob.dev.Curve25519
		alice.seal(twin, "not to be read", oneTime)
		bob.reads(alice, alice.seal(bob, fmt.Sprint(i), ""), fmt.Sprint(i))
		alice.stored()
	}
	if n := len(alice.all.byKey[bob.dev.Curve25519]); n > maxUnanswered+maxSessionsPerDevice {
		t.Errorf("%d sessions are kept", n)
	}

	rows := make([]store.OlmSession, 0, maxSessionsPerKey)
	for _, s := range alice.all.byKey[bob.dev.Curve25519] {
		if s.row.With == bob.dev.Ed25519.String() {
			s.row.With = "" // as it was stored before it was known
			rows = append(rows, s.row)
		}
	}
	alice.load(map[string][]store.OlmSession{bob.dev.Curve25519.String(): rows})
	twin := newEnd(t, "@mallory:x", "TWIN")
	twin.dev.Curve25519 = bob.dev.Curve25519
	frame := NewFrame(alice.own, "@alice:x", nil, "m.dummy", json.RawMessage(`{"text":"to both"}`))
	sealed, _, _ := alice.all.SealAll(alice.own, frame, []*trustcache.Device{twin.dev, bob.dev}, nil, alice.now)
	if len(sealed) != 2 || sealed[0].letter.index == sealed[1].letter.index {
		t.Fatalf("%d are sealed, or both with one key", len(sealed))
	}
	bob.reads(alice, sealed[1].Text(), "to both")
	bob.reads(alice, alice.seal(bob, "afterwards", ""), "afterwards")
}
