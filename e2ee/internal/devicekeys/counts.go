package devicekeys

import (
	"context"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/wire"
)

const (
	// fallbackMinAge limits uploads of fallback keys for a homeserver that always says that
	// they are used.
	fallbackMinAge = time.Hour
	// countKeysEvery bounds how often the homeserver is asked for counts that its syncs
	// leave out.
	countKeysEvery = time.Minute
)

// UpdateCounts applies the counts of our keys in a sync, and the algorithms of the fallback keys
// that it lists as unused, nil when it has no such list (requirements 3.3, 3.4). The
// counts of an overtaken response may be older than the last upload, so the homeserver is
// asked instead of uploading the same keys again. The caller holds mu.
func (k *Supply) UpdateCounts(counts map[string]int, unused []string, overtaken bool) {
	if overtaken {
		k.uncounted = k.Record.Row.KeysUploaded
		return
	}
	if k.uncounted = counts == nil && k.Record.Row.KeysUploaded; counts != nil {
		k.setKeyCounts(counts)
	}
	if unused != nil {
		k.newFallback = !slices.Contains(unused, wire.AlgorithmSigned)
	}
}

// countKeys asks the homeserver for the number of one-time keys if a sync left it out.
// Taking that for zero would upload keys without end to a homeserver that always leaves it
// out.
func (k *Supply) countKeys(ctx context.Context) error {
	k.Mu.Lock()
	due := k.uncounted && k.Env.Now().Sub(k.countedAt) >= countKeysEvery
	k.Mu.Unlock()
	if !due {
		return nil
	}
	_, err := k.Count(ctx)
	return err
}

// Count asks the homeserver for the number of one-time keys.
func (k *Supply) Count(ctx context.Context) (int, error) {
	var resp struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	err := k.Call(ctx, wire.Request{
		Op: "count keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: struct{}{}, Result: &resp,
	})
	if err != nil {
		return 0, err
	}
	k.Mu.Lock()
	defer k.Mu.Unlock()
	k.setKeyCounts(resp.Counts)
	k.uncounted, k.countedAt = false, k.Env.Now()
	return k.count, nil
}

// setKeyCounts applies the homeserver's counts. The caller holds mu.
func (k *Supply) setKeyCounts(counts map[string]int) {
	k.count = counts[wire.AlgorithmSigned]
	k.wanted = k.count < k.Env.OneTimeKeys/2+1
}
