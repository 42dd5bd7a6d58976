package e2ee

import "e2ee-proxy/e2ee/internal/roomkeys"

// A device is the host of its room keys.
var (
	_ roomkeys.OutboundHost = host{}
	_ roomkeys.InboundHost  = host{}
)

// WakeWaiting implements roomkeys.InboundHost.
func (h host) WakeWaiting() { h.wakeWaiting() }
