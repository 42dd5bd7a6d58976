package devicekeys

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// A sync lists the algorithms of unused fallback keys, and a new key is made when ours is
// missing. But Dendrite discards fallback keys and always lists none; it would get a new
// one every hour. So the list counts only for a key that the homeserver is known to have:
// it listed it, or gave it to somebody.

// RecordServedFallback records that the homeserver has the fallback key that was published
// last.
func (k *Supply) RecordServedFallback(s *core.Step) error {
	key := k.olm.ReadKeys(s).CurrentFallback()
	if key == "" || key == k.served || !k.olm.ReadKeys(s).CurrentFallbackKey.Published {
		return nil
	}
	if err := s.ChangeMeta(func(m *core.Meta) { m.Fallback = key }); err != nil {
		return err
	}
	s.After(func() { k.served = key })
	return nil
}

// loadServed reads the fallback key that the homeserver is known to have.
func loadServed(meta json.RawMessage) id.Curve25519 {
	return core.ReadMeta(meta).Fallback
}

// newFallbackDue reports whether to upload another fallback key. The caller holds mu.
func (k *Supply) newFallbackDue() bool {
	switch {
	case k.olm.Keys().NumFallbackKeys == 0:
		return true
	case !k.olm.Keys().CurrentFallbackKey.Published:
		return false
	case k.Record.Row.Restored:
		return true
	case !k.newFallback || k.served != k.olm.Keys().CurrentFallback():
		return false
	default:
		return k.fallbackUsed || k.Env.Now().Sub(k.Record.Row.FallbackChangedAt) >= fallbackMinAge
	}
}
