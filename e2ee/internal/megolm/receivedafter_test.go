package megolm

import (
	"testing"
	"time"

	"e2ee-proxy/store"
)

// A session that replaces another is never received at the same time, whatever the clock
// says: a millisecond is the least that is stored.
func TestReceivedAfter(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1000)
	for name, tc := range map[string]struct{ old, now, want time.Time }{
		"nothing before":      {time.Time{}, at, at},
		"long after":          {at, at.Add(time.Hour), at.Add(time.Hour)},
		"at the same moment":  {at, at, at.Add(time.Millisecond)},
		"in one millisecond":  {at, at.Add(time.Microsecond), at.Add(time.Millisecond)},
		"the clock went back": {at, at.Add(-time.Hour), at.Add(time.Millisecond)},
		"a millisecond later": {at, at.Add(time.Millisecond), at.Add(time.Millisecond)},
	} {
		if got := ReceivedAfter(store.InboundSession{ReceivedAt: tc.old}, tc.now); !got.Equal(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
