package channel

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// LoadSessions loads the sessions with devices of these keys, with one query.
func (o *Olm) LoadSessions(ctx context.Context, keys []id.Curve25519) (*olm.Sessions, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.String()
	}
	rows, err := o.Env.Store.OlmSessions(ctx, o.Account.Row, o.RowID, names)
	if err != nil {
		return nil, fmt.Errorf("load Olm sessions: %w", err)
	}
	return olm.LoadSessions(rows)
}

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
