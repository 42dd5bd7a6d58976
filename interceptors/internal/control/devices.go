package control

import (
	"errors"
	"net/http"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// usersOnly refuses those whom the token's owner only speaks for: the devices are the owner's.
func usersOnly(next http.Handler) http.Handler {
	return middleware(func(a *request) error {
		if who := a.Identity; who.Asserted || who.Guest || who.UserID == "" {
			return apierr.Forbidden("This is for the user only.")
		}
		return nil
	})(next)
}

// heldDevice is a device that has used the proxy, as a client is told of it.
type heldDevice struct {
	DeviceID id.DeviceID `json:"device_id"`
	Mode     string      `json:"mode"`
	// SignedIn reports whether the proxy has an access token of it.
	SignedIn bool `json:"signed_in"`
	// LastUsed is missing when that was not since the process started.
	LastUsed *time.Time `json:"last_used,omitempty"`
}

func listDevices(a request) (any, error) {
	held, err := a.Devices.HeldDevices(a.ctx, a.Identity.UserID)
	if err != nil {
		return nil, err
	}
	out := make([]heldDevice, len(held))
	for i, h := range held {
		out[i] = heldDevice{DeviceID: h.DeviceID, Mode: h.Mode.String(), SignedIn: h.HasToken}
		if !h.LastUsed.IsZero() {
			out[i].LastUsed = &h.LastUsed
		}
	}
	return struct {
		Devices []heldDevice `json:"devices"`
	}{out}, nil
}

// HeldError turns the errors of a device that is acted for without its client into those for
// whoever does that; others stay as they are.
func HeldError(err error) error {
	switch {
	case errors.Is(err, e2ee.ErrUnknownDevice):
		return apierr.NotFound("No such device of this user has used the proxy.").WithHint("Log in through the proxy first.").Because(err)
	case errors.Is(err, e2ee.ErrSessionEnded):
		return clientError(err)
	}
	return err
}
