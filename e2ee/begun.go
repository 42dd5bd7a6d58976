package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"
)

// A device that leaves memory takes along that others have begun Olm sessions with it (see
// countBegun), and would not give them again the room keys that they may have lost. Those
// who were given none since are kept in its row.

// maxBegunKept bounds them: each is a key of 43 letters.
const maxBegunKept = 100

// loadBegun reads who was kept.
func loadBegun(meta json.RawMessage) map[id.Curve25519]int {
	var m deviceMeta
	if json.Unmarshal(meta, &m) != nil || len(m.Begun) == 0 {
		return nil
	}
	out := make(map[id.Curve25519]int, len(m.Begun))
	for _, key := range m.Begun {
		out[key] = 1
	}
	return out
}

// begunToKeep returns those who were given no room key since they began a session. The
// caller holds mu.
func (d *Device) begunToKeep() []id.Curve25519 {
	given, old := make(map[id.Curve25519]bool), make(map[id.Curve25519]bool)
	for _, out := range d.megolmState.outbound {
		for ref, share := range out.shares {
			key := id.Curve25519(share.Curve25519)
			switch {
			case share.Withheld != "" || d.olmState.begun[key] == 0:
			case out.begun[ref] == d.olmState.begun[key]:
				given[key] = true
			default:
				old[key] = true
			}
		}
	}
	keep := slices.DeleteFunc(slices.Sorted(maps.Keys(d.olmState.begun)), func(key id.Curve25519) bool { return given[key] && !old[key] })
	return keep[:min(len(keep), maxBegunKept)]
}

// keepBegun stores who is to be kept, if that differs from what is stored.
func (d *Device) keepBegun(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var m deviceMeta
	if d.record.row.Meta != nil && json.Unmarshal(d.record.row.Meta, &m) != nil {
		m = deviceMeta{} // see loadNotices
	}
	keep := d.begunToKeep()
	if slices.Equal(keep, m.Begun) {
		return nil
	}
	m.Begun = keep
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode who began sessions: %w", err)
	}
	s := d.begin()
	s.row().Meta = raw
	return s.commit(ctx, "who began sessions")
}
