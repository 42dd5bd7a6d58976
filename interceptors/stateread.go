package interceptors

import (
	"fmt"
	"net/http"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// GET rooms/{roomId}/state[/{eventType}[/{stateKey}]]. Some clients without encryption look
// here whether a room is encrypted, and refuse to send when it is. Those that the proxy
// encrypts for find no m.room.encryption, as in their syncs, unless the options say
// otherwise. The events of a list are cleaned as everywhere; a single one is only its
// content, which somebody wrote, unless the client asks for the whole event.

// stateEvents holds the handler of reads of one event of a room's state.
type stateEvents struct {
	event          Handler // rewrites a whole event
	showEncryption bool
}

// get handles [StateGet].
func (s *stateEvents) get(x *Exchange) error {
	if x.Endpoint.Params["eventType"] == typeEncryption && x.Endpoint.Params["stateKey"] == "" && !s.showEncryption {
		return s.encryption(x)
	}
	if x.Request.URL.Query().Get("format") == "event" {
		return s.event(x)
	}
	return x.Upstream.Forward(x)
}

// encryption handles the m.room.encryption of a room. The homeserver is asked all the same,
// so that a user who may not see the room gets its error.
func (s *stateEvents) encryption(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return x.RelayAndClose(resp)
	}
	if err := resp.Body.Close(); err != nil {
		return apierr.Unread(fmt.Errorf("read a state event: %w", err))
	}
	return apierr.NotFound("There is no such state event.")
}
