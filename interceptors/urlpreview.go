package interceptors

import (
	"encoding/json"

	"e2ee-proxy/e2ee"
)

// GET media/preview_url. A client asks the homeserver for a preview of each link that it
// shows, so that the homeserver learns what an encrypted message linked to, and loads the
// page itself. A device that the proxy encrypts for is answered here, with a preview that
// has nothing: clients then show the link alone. A device with keys of its own, or without
// any, was given no clear text by the proxy, and its requests pass.

// previewURL returns the handler of [PreviewURL].
func previewURL(pass bool) Handler {
	return func(x *Exchange) error {
		if pass {
			return x.Upstream.Forward(x)
		}
		dev, err := x.Device()
		if err != nil {
			return err
		}
		switch dev.Mode() {
		case e2ee.ModeForeign, e2ee.ModeNone:
			return x.Upstream.Forward(x)
		case e2ee.ModeUnknown, e2ee.ModeProxied, e2ee.ModeLost:
		}
		return x.WriteJSON(json.RawMessage(`{}`))
	}
}
