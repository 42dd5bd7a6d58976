package roomkeys

import (
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Attack A4, in one batch: the homeserver repeats a ciphertext under another event ID, with
// so many messages between the two that the first one's index could be forgotten before it
// is stored. Refused, and so it is after the index was stored and let go of; only a claim
// that could not be stored is free again (requirement 8.4).
func TestRepeatedFarApartInOneBatch(t *testing.T) {
	t.Parallel()
	s := &inboundSession{last: -1}
	event := func(i uint32) id.EventID { return id.EventID(fmt.Sprintf("$%d", i)) }
	const many = 3 * maxRemembered
	for i := range uint32(many) {
		if got := s.reserveIndex(usedKey{index: i}, event(i), 1, true); got != indexNew {
			t.Fatalf("index %d: %v", i, got)
		}
	}
	for i := range uint32(many) {
		if got := s.reserveIndex(usedKey{index: i}, "$repeated", 1, true); got != indexReplayed {
			t.Fatalf("index %d is given to another event: %v", i, got)
		}
		s.recordUsed(usedKey{index: i}, event(i), 1)
	}
	if got := s.reserveIndex(usedKey{index: many}, event(many), 1, true); got != indexNew {
		t.Errorf("the next index: %v", got)
	}
	if n := len(s.used); n > maxRemembered {
		t.Errorf("%d indices are remembered that the store knows", n)
	}
	if got := s.reserveIndex(usedKey{}, "$repeated", 1, true); got != indexUnsure {
		t.Errorf("an index that only the store knows: %v", got)
	}
	s.releaseIndex(usedKey{index: many})
	if got := s.reserveIndex(usedKey{index: many}, "$another", 1, true); got != indexNew {
		t.Errorf("an index whose claim was not stored: %v", got)
	}
}

// quiet is a host without a client or requests.
type quiet struct{ InboundHost }

func (*quiet) WakeWaiting() {}

// A room key is loaded from the store. Before it is in the cache a better one is stored, and
// the cache is told to let go of what it has. The one that was loaded serves those who
// asked for it, and nobody after them; and what has become known of its owner meanwhile is
// not written over the better one's.
func TestKeyStoredWhileAnotherIsLoaded(t *testing.T) {
	t.Parallel()
	cache, err := NewCache(10)
	if err != nil {
		t.Fatal(err)
	}
	dev := &core.Device{Account: &core.Account{}, Env: &core.Env{}, Self: core.Self{RowID: 1}} // without a store: a write would not survive
	in := NewInbound(dev, cache, &quiet{})
	ref := store.SessionRef{RoomID: "!r:x", SessionID: "s"}
	load := func() *inboundSession {
		return &inboundSession{
			row: store.InboundSession{SessionRef: ref, Source: store.SourceDirect}, last: -1,
			owner: trustcache.Owner{UserID: "@bob:x", Curve25519: "c", Ed25519: "e"},
		}
	}
	storeBetter := func() {
		in.Mu.Lock()
		defer in.Mu.Unlock()
		in.RecordStored([]store.InboundSession{{SessionRef: ref}})
	}
	cached := func() bool { return cache.sessions.Contains(inboundKey{in.keys(), ref}) }

	before := in.Stored()
	worse := load()
	storeBetter()
	in.keepLoaded(map[store.SessionRef]*inboundSession{ref: worse}, before)
	if cached() {
		t.Error("the worse key is in the cache in the place of the better")
	}
	bob := &trustcache.User{
		UserID: "@bob:x", Knowledge: trustcache.KnowledgeFresh,
		Devices: []trustcache.Device{{UserID: "@bob:x", DeviceID: "B", Curve25519: "c", Ed25519: "e", Signed: true, Raw: []byte(`{}`)}},
	}
	events := []*Event{{session: worse, Sender: "@bob:x", Ref: ref, Payload: strictjson.Object{}}}
	if err := in.UpgradeOwners(t.Context(), events, map[id.UserID]*trustcache.User{bob.UserID: bob}); err != nil {
		t.Fatal(err)
	}
	if owner := worse.firstOwner(); !owner.Signed {
		t.Errorf("who asked for it does not know its owner: %+v", owner)
	}

	before = in.Stored()
	in.keepLoaded(map[store.SessionRef]*inboundSession{ref: load()}, before)
	if !cached() {
		t.Error("what nothing has overtaken is not in the cache")
	}
}
