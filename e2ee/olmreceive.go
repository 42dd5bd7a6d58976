package e2ee

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// loadOlmSessions loads the sessions with devices of these keys, with one query.
func (o *olmState) loadOlmSessions(ctx context.Context, keys []id.Curve25519) (*olm.Sessions, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.String()
	}
	rows, err := o.Env.Store.OlmSessions(ctx, o.acct.Row, o.RowID, names)
	if err != nil {
		return nil, fmt.Errorf("load Olm sessions: %w", err)
	}
	return olm.LoadSessions(rows)
}

// decryptOlm decrypts one message addressed to us, and stages what changed. If it fails,
// nothing changed (requirement 6.13). The caller holds mu.
func (o *olmState) decryptOlm(ev *olm.Event, sessions *olm.Sessions, seen map[[32]byte]bool, s *core.Step) ([]byte, error) {
	digest := ev.Digest(o.account.Curve25519)
	if seen[digest] {
		return nil, olm.ErrReplayed
	}
	now := o.Env.Now()
	plain, made, err := sessions.Decrypt(o.readAccount(s), ev, now)
	if err != nil {
		return nil, err
	}
	if made != nil {
		if o.readAccount(s).UsedFallback(made.BobOneTimeKey) {
			if err := o.host.recordServedFallback(s); err != nil {
				return nil, err
			}
			s.After(o.host.fallbackWasUsed)
		}
		o.changeAccount(s).RemoveOneTimeKey(made.BobOneTimeKey)
		sessions.BeganBy(ev.SenderKey, made, now)
	}
	seen[digest] = true
	s.Changes.Seen = append(s.Changes.Seen, store.SeenMessage{Digest: digest, At: now})
	return plain, nil
}
