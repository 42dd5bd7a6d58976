package e2ee

import (
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"
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
		if got := s.claim(usedKey{index: i}, event(i), 1); got != claimNew {
			t.Fatalf("index %d: %v", i, got)
		}
	}
	for i := range uint32(many) {
		if got := s.claim(usedKey{index: i}, "$repeated", 1); got != claimReplayed {
			t.Fatalf("index %d is given to another event: %v", i, got)
		}
		s.settle(usedKey{index: i}, event(i), 1)
	}
	if got := s.claim(usedKey{index: many}, event(many), 1); got != claimNew {
		t.Errorf("the next index: %v", got)
	}
	if n := len(s.used); n > maxRemembered {
		t.Errorf("%d indices are remembered that the store knows", n)
	}
	if got := s.claim(usedKey{}, "$repeated", 1); got != claimOpen {
		t.Errorf("an index that only the store knows: %v", got)
	}
	s.release(usedKey{index: many})
	if got := s.claim(usedKey{index: many}, "$another", 1); got != claimNew {
		t.Errorf("an index whose claim was not stored: %v", got)
	}
}
