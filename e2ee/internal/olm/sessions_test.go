package olm

import (
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
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
		all.Add(key, s, start.Add(time.Duration(len(made))*time.Hour))
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
