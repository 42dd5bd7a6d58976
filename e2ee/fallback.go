package e2ee

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// A sync lists the algorithms of unused fallback keys, and a new key is made when ours is
// missing. But Dendrite discards fallback keys and always lists none; it would get a new
// one every hour. So the list counts only for a key that the homeserver is known to have:
// it listed it, or gave it to somebody.

// recordServedFallback records that the homeserver has the fallback key that was published
// last.
func (d *Device) recordServedFallback(s *core.Step) error {
	key := d.channel.ReadKeys(s).CurrentFallback()
	if key == "" || key == d.keySupply.served || !d.channel.ReadKeys(s).CurrentFallbackKey.Published {
		return nil
	}
	if err := s.ChangeMeta(func(m *core.Meta) { m.Fallback = key }); err != nil {
		return err
	}
	s.After(func() { d.keySupply.served = key })
	return nil
}

// loadServed reads the fallback key that the homeserver is known to have.
func loadServed(meta json.RawMessage) id.Curve25519 {
	return core.ReadMeta(meta).Fallback
}

// newFallbackDue reports whether to upload another fallback key. The caller holds mu.
func (d *Device) newFallbackDue() bool {
	switch {
	case d.channel.Keys().NumFallbackKeys == 0:
		return true
	case !d.channel.Keys().CurrentFallbackKey.Published:
		return false
	case d.core.Record.Row.Restored:
		return true
	case !d.keySupply.newFallback || d.keySupply.served != d.channel.Keys().CurrentFallback():
		return false
	default:
		return d.keySupply.fallbackUsed || d.core.Env.Now().Sub(d.core.Record.Row.FallbackChangedAt) >= fallbackMinAge
	}
}
