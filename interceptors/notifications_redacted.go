package interceptors

import (
	"net/http"

	"golang.org/x/sync/errgroup"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/strictjson"
)

// Dendrite keeps a copy of each event for its notification, which no redaction reaches: what
// was deleted would be decrypted again here, and only here. So the homeserver is asked for the
// messages that are about to be shown. There are few on a page, and nobody asks for it often.

// redactedParallel is how many are asked for at a time.
const redactedParallel = 8

// withoutRedacted returns the notifications without those of decrypted messages that were
// redacted since. Where the homeserver does not say so, its list counts.
func (m *missedMerge) withoutRedacted(page []strictjson.Object) ([]strictjson.Object, error) {
	gone := make([]bool, len(page))
	group, ctx := errgroup.WithContext(m.x.Request.Context())
	group.SetLimit(redactedParallel)
	for i, one := range page {
		event := one.Object("event")
		room, id := one.TextOrEmpty("room_id"), event.TextOrEmpty("event_id")
		if !event.IsTrue("decrypted") || !exchange.ValidRoom(room) || id == "" || m.asked[id] {
			continue
		}
		group.Go(parallel.Safe(func() error {
			raw, status, err := eventNow(ctx, m.x, room, id)
			if err != nil || status != http.StatusOK {
				return err // or it does not say that it was redacted
			}
			now, err := strictjson.Parse(raw)
			gone[i] = err == nil && now.TextOrEmpty("event_id") == id && now.TextOrEmpty("type") == typeEncrypted &&
				now.Object("content").Get("ciphertext") == nil
			return nil
		}))
	}
	if err := group.Wait(); err != nil {
		return nil, err //nolint:wrapcheck // it is what the client is told
	}
	var out []strictjson.Object
	for i, one := range page {
		if !gone[i] {
			out = append(out, one)
		}
	}
	return out, nil
}
