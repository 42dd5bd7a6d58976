package e2ee

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// Others that began an Olm session with a device may have lost the room keys that it sent
// them, and are given them again (see countBegun). So that unloading a device does not lose
// that, those that were given no room key since are stored in its row.

// maxBegunKept bounds them: each is a Curve25519 key.
const maxBegunKept = 100

// loadBegun reads the stored ones.
func loadBegun(meta json.RawMessage) map[id.Curve25519]int {
	m := core.ReadMeta(meta)
	if len(m.Begun) == 0 {
		return nil
	}
	out := make(map[id.Curve25519]int, len(m.Begun))
	for _, key := range m.Begun {
		out[key] = 1
	}
	return out
}

// begunToKeep returns the keys of devices that began a session and were given no room key
// since. The caller holds mu.
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

// keepBegun stores them if that differs from what is stored.
func (d *Device) keepBegun(ctx context.Context) error {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	keep := d.begunToKeep()
	if slices.Equal(keep, core.ReadMeta(d.core.Record.Row.Meta).Begun) {
		return nil
	}
	s := d.core.Begin()
	if err := s.ChangeMeta(func(m *core.Meta) { m.Begun = keep }); err != nil {
		return err
	}
	return s.Commit(ctx, "who began sessions")
}
