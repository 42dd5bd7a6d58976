package rooms

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// What a list or a sync shows of somebody, beside what was accepted a moment before: only a
// membership that does not know of the change yet is older than it.
func TestAcceptedChangeTable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		accepted, shown    string
		arrival, departure bool
	}{
		{"", "join", false, false},
		{"join", "join", false, false},
		{"join", "invite", true, false}, // before the invite was taken
		{"join", "", true, false},
		{"join", "leave", true, false},
		{"invite", "invite", false, false},
		{"invite", "join", false, false}, // and they came
		{"invite", "leave", true, false},
		{"invite", "", true, false},
		{"leave", "join", false, true},
		{"leave", "invite", false, true},
		{"leave", "", false, false},
		{"leave", "ban", false, false},
		{"ban", "join", false, true},
		{"ban", "leave", false, false},
	} {
		var c acceptedChanges
		if tt.accepted != "" {
			c.record("!r:hs", "@bob:hs", tt.accepted, now)
		}
		arrival, departure := c.inRoom("!r:hs", now).contradicts("@bob:hs", tt.shown)
		if arrival != tt.arrival || departure != tt.departure {
			t.Errorf("accepted %q, shown %q: arrival %v, departure %v", tt.accepted, tt.shown, arrival, departure)
		}
		if got := c.isOutdated("!r:hs", "@bob:hs", tt.shown, now); got != (arrival || departure) {
			t.Errorf("accepted %q, shown %q by a sync: %v", tt.accepted, tt.shown, got)
		}
		later := now.Add(acceptedFor)
		if arrival, departure := c.inRoom("!r:hs", later).contradicts("@bob:hs", tt.shown); arrival || departure {
			t.Errorf("accepted %q, shown %q: it counts for ever", tt.accepted, tt.shown)
		}
		if c.isOutdated("!other:hs", "@bob:hs", tt.shown, now) || c.isOutdated("!r:hs", "@carol:hs", tt.shown, now) {
			t.Errorf("accepted %q: it counts for others too", tt.accepted)
		}
	}
}

// Whoever invites very many loses what was noted of invites, and never a removal.
func TestAcceptedChangesAreBounded(t *testing.T) {
	t.Parallel()
	var c acceptedChanges
	now := time.Now()
	c.record("!r:hs", "@first:hs", "leave", now)
	for i := range 2 * maxArrivals {
		c.record("!r:hs", id.UserID(fmt.Sprintf("@%d:hs", i)), "invite", now)
	}
	c.record("!r:hs", "@last:hs", "leave", now)
	changes := c.inRoom("!r:hs", now)
	if len(changes) > maxArrivals+1 {
		t.Errorf("%d changes are kept", len(changes))
	}
	for _, user := range []id.UserID{"@first:hs", "@last:hs"} {
		if !changes.hasLeft(user) {
			t.Errorf("the removal of %s is forgotten", user)
		}
	}
	for i := range 10 * sweepAccepted {
		now = now.Add(time.Second)
		c.record(id.RoomID(fmt.Sprintf("!%d:hs", i)), "@bob:hs", "join", now)
	}
	if len(c.rooms) > sweepAccepted {
		t.Errorf("%d rooms are kept, of which 10 count", len(c.rooms))
	}
}

// Of what was accepted a moment before and what is shown now, the one counts by which fewer
// people may read.
func TestAcceptedVisibilityTable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range [][3]string{ // accepted, shown, what counts
		{"joined", "joined", "joined"}, {"joined", "invited", "joined"}, {"joined", "shared", "joined"}, {"joined", "world_readable", "joined"},
		{"invited", "joined", "joined"}, {"invited", "invited", "invited"}, {"invited", "shared", "invited"},
		{"shared", "joined", "joined"}, {"shared", "invited", "invited"}, {"shared", "world_readable", "shared"},
		{"nonsense", "world_readable", "shared"},
	} {
		var a acceptedVisibilities
		a.record("!r:hs", tt[0], now)
		if got := a.narrow("!r:hs", tt[1], now.Add(acceptedFor-1)); got != tt[2] {
			t.Errorf("accepted %s, shown %s: %s, want %s", tt[0], tt[1], got, tt[2])
		}
		if got := a.narrow("!r:hs", tt[1], now.Add(acceptedFor)); got != tt[1] {
			t.Errorf("accepted %s, shown %s: it counts for ever", tt[0], tt[1])
		}
		if got := a.narrow("!other:hs", tt[1], now); got != tt[1] {
			t.Errorf("accepted %s, shown %s: it counts for other rooms", tt[0], tt[1])
		}
	}
}

func TestAcceptedVisibilitiesAreBounded(t *testing.T) {
	t.Parallel()
	var a acceptedVisibilities
	now := time.Now()
	for i := range 10 * sweepAccepted {
		now = now.Add(time.Second)
		a.record(id.RoomID(fmt.Sprintf("!%d:hs", i)), "joined", now)
	}
	if len(a.rooms) > sweepAccepted {
		t.Errorf("%d rooms are kept", len(a.rooms))
	}
	if last := id.RoomID(fmt.Sprintf("!%d:hs", 10*sweepAccepted-1)); a.narrow(last, "shared", now) != "joined" {
		t.Error("the last is forgotten")
	}
}
