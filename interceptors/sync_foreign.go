package interceptors

import (
	"context"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"
)

// Syncs of devices whose encryption the proxy does not do pass through. There is one
// exception: a client that turned out to have keys of its own only after its first sync saw
// that sync without the encryption of its rooms. Its next one carries the full state, so
// that it learns what was hidden and sends nothing in clear.

// fullStateTaker is a device whose client may need the full state once.
type fullStateTaker interface {
	NeedsFullState() bool
	GaveFullState(ctx context.Context) error
}

func passSync(x *Exchange, dev Device) error {
	taker, ok := dev.(fullStateTaker)
	if !ok || !taker.NeedsFullState() {
		return x.Upstream.Forward(x)
	}
	query := syncQuery(x.Request)
	query.Set("full_state", "true")
	query.Set("timeout", "0")
	resp, err := x.Upstream.Do(x, Change{Query: query}) //nolint:bodyclose // RelayAndClose closes it
	if err != nil {
		return fmt.Errorf("sync with the whole state: %w", err)
	}
	given := resp.StatusCode == http.StatusOK
	if err := x.RelayAndClose(resp); err != nil || !given {
		return err
	}
	// The client has its answer. If this is not recorded it gets the full state once more.
	if err := taker.GaveFullState(context.WithoutCancel(x.Request.Context())); err != nil {
		zerolog.Ctx(x.Request.Context()).Warn().Err(err).Msg("The client has the whole state; that could not be noted, so it gets it once more")
	}
	return nil
}
