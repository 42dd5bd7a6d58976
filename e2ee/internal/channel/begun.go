package channel

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// Others that began an Olm session with a device may have lost the room keys that it sent
// them, and are given them again (see CountBegun). So that unloading a device does not lose
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

// CountBegun counts the Olm sessions that others have begun with us, or we with them
// because an old one was broken. Their earlier sessions may be lost, and with them the room
// keys that we sent: the keys of current Megolm sessions are sent again with the next
// message (requirement 6.12). After a restart of the process such a device waits for the
// next session of the room. The caller holds mu.
func (o *Olm) CountBegun(by []id.Curve25519) {
	for _, key := range by {
		if o.begun == nil || len(o.begun) >= maxNoKeys {
			o.begun = make(map[id.Curve25519]int)
		}
		o.begun[key]++
	}
}

// Begun returns how many sessions a device has begun. The caller holds mu.
func (o *Olm) Begun(key id.Curve25519) int { return o.begun[key] }

// KeepBegun stores the keys of devices that began a session and were given no room key since,
// if that differs from what is stored. given returns those that were given one since then.
func (o *Olm) KeepBegun(ctx context.Context, given GivenSince) error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	keep := o.BegunToKeep(given)
	if slices.Equal(keep, core.ReadMeta(o.Record.Row.Meta).Begun) {
		return nil
	}
	s := o.Begin()
	if err := s.ChangeMeta(func(m *core.Meta) { m.Begun = keep }); err != nil {
		return err
	}
	return s.Commit(ctx, "who began sessions")
}

// GivenSince returns the keys of the devices that have got every room key that they were given
// since they began their last session; begun counts those. The caller holds mu.
type GivenSince func(begun map[id.Curve25519]int) map[id.Curve25519]bool

// BegunToKeep returns the keys that KeepBegun stores. The caller holds mu.
func (o *Olm) BegunToKeep(given GivenSince) []id.Curve25519 {
	all := given(o.begun)
	keep := slices.DeleteFunc(slices.Sorted(maps.Keys(o.begun)), func(key id.Curve25519) bool { return all[key] })
	return keep[:min(len(keep), maxBegunKept)]
}
