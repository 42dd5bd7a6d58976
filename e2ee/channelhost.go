package e2ee

import (
	"encoding/json"
	"time"

	"e2ee-proxy/e2ee/internal/channel"
)

// A device is the host of its Olm channels.
var _ channel.Host = host{}

// RetryWedges implements channel.Host.
func (h host) RetryWedges(pause time.Duration) { h.retryLocked(retryWedges, pause) }

// ShownKeys implements channel.Host.
func (h host) ShownKeys() json.RawMessage { return h.Identity.ShownKeysLocked() }
