package channel

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// Decrypt decrypts one message addressed to us, and stages what changed. If it fails,
// nothing changed (requirement 6.13). The caller holds mu.
func (o *Olm) Decrypt(ev *olm.Event, sessions *olm.Sessions, seen map[[32]byte]bool, s *core.Step) ([]byte, error) {
	digest := ev.Digest(o.Curve25519)
	if seen[digest] {
		return nil, olm.ErrReplayed
	}
	now := o.Env.Now()
	plain, made, err := sessions.Decrypt(o.ReadKeys(s), ev, now)
	if err != nil {
		return nil, err
	}
	if made != nil {
		if o.ReadKeys(s).UsedFallback(made.BobOneTimeKey) {
			if err := o.host.RecordServedFallback(s); err != nil {
				return nil, err
			}
			s.After(o.host.FallbackWasUsed)
		}
		o.ChangeKeys(s).RemoveOneTimeKey(made.BobOneTimeKey)
		sessions.BeganBy(ev.SenderKey, made, now)
	}
	seen[digest] = true
	s.Changes.Seen = append(s.Changes.Seen, store.SeenMessage{Digest: digest, At: now})
	return plain, nil
}
