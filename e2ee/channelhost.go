package e2ee

import (
	"encoding/json"
	"time"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
)

// A device is the host of its Olm channels.
var _ channel.Host = host{}

// RecordServedFallback implements channel.Host.
func (h host) RecordServedFallback(s *core.Step) error { return h.recordServedFallback(s) }

// FallbackWasUsed implements channel.Host.
func (h host) FallbackWasUsed() { h.fallbackWasUsed() }

// RetryWedges implements channel.Host.
func (h host) RetryWedges(pause time.Duration) { h.retryLocked(retryWedges, pause) }

// ShownKeys implements channel.Host.
func (h host) ShownKeys() json.RawMessage { return h.Identity.ShownKeysLocked() }
