package e2ee

import (
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/id"
)

// A sync lists the algorithms of unused fallback keys, and a new key is made when ours is
// missing. But Dendrite discards fallback keys and always lists none; it would get a new
// one every hour. So the list counts only for a key that the homeserver is known to have:
// it listed it, or gave it to somebody.

// recordServedFallback records that the homeserver has the fallback key that was published
// last.
func (s *step) recordServedFallback() error {
	key := s.reading().CurrentFallback()
	if key == "" || key == s.d.keySupply.served || !s.reading().CurrentFallbackKey.Published {
		return nil
	}
	var m deviceMeta
	if s.row().Meta != nil && json.Unmarshal(s.row().Meta, &m) != nil {
		m = deviceMeta{} // see loadNotices
	}
	m.Fallback = key
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode which fallback key was seen: %w", err)
	}
	s.row().Meta = raw
	s.after(func() { s.d.keySupply.served = key })
	return nil
}

// loadServed reads the fallback key that the homeserver is known to have.
func loadServed(meta json.RawMessage) id.Curve25519 {
	var m deviceMeta
	if json.Unmarshal(meta, &m) != nil {
		return ""
	}
	return m.Fallback
}

// newFallbackDue reports whether to upload another fallback key. The caller holds mu.
func (d *Device) newFallbackDue() bool {
	switch {
	case d.olmState.account.NumFallbackKeys == 0:
		return true
	case !d.olmState.account.CurrentFallbackKey.Published:
		return false
	case d.record.row.Restored:
		return true
	case !d.keySupply.newFallback || d.keySupply.served != d.olmState.account.CurrentFallback():
		return false
	default:
		return d.keySupply.fallbackUsed || d.eng.now().Sub(d.record.row.FallbackChangedAt) >= fallbackMinAge
	}
}
