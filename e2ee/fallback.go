package e2ee

import (
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/id"
)

// A sync lists the kinds of fallback keys that are not used yet, and a new one is made when
// ours is missing there. But a homeserver that throws fallback keys away lists none, ever:
// Dendrite does. It would be given a new one every hour. So the list counts only for a key
// of which the homeserver has shown that it has it: it listed it, or gave it to somebody.

// recordServedFallback notes that the homeserver has the fallback key that was published last.
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

// loadServed reads which fallback key the homeserver has shown that it has.
func loadServed(meta json.RawMessage) id.Curve25519 {
	var m deviceMeta
	if json.Unmarshal(meta, &m) != nil {
		return ""
	}
	return m.Fallback
}

// newFallbackDue reports whether the homeserver wants another fallback key. The caller
// holds mu.
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
