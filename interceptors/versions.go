package interceptors

import (
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// GET versions announces the homeserver's features, by which clients choose how to sync.
// Sliding sync (MSC3575, MSC4186) exists for devices whose clients encrypt, and for no
// others: see slidingsync.go. A client that found it here and did not get it would stop
// instead of using /sync. So it is named to nobody who cannot use it; whose token that is
// is asked for, but no device is adopted by it. Everything else stays.
//
// Without a token it is named. Clients that have nothing but sliding sync, Element X, ask
// before they log in, and refuse the homeserver that does not name it; all that choose it by
// this answer do their own encryption. One that does not is told with its token.

// versions handles [Versions].
func versions(x *Exchange) error {
	if x.Identity.UserID == "" {
		return x.Upstream.Forward(x)
	}
	// Where it cannot be told who encrypts, sliding sync is not named.
	if may, err := x.Devices.ClientMayEncrypt(x.Request.Context(), x.Identity); err == nil && may {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return x.Upstream.Relay(x, resp)
	}
	raw := exchange.Peek(resp)
	if raw == nil {
		return apierr.Unreachable(errors.New("what the homeserver can do is not readable"))
	}
	if exchange.CheckObject(raw) != nil { // no client can read it, so it is passed on
		return x.Upstream.Relay(x, resp)
	}
	changed, err := editMember(raw, "unstable_features", func(features []byte) ([]byte, error) {
		if jsontext.Value(features).Kind() != jsontext.KindBeginObject {
			return features, nil
		}
		return strictjson.Edit(features, func(name string, value jsontext.Value) (jsontext.Value, error) {
			if isSlidingSync(name) {
				return nil, nil
			}
			return value, nil
		})
	})
	if err != nil {
		return apierr.Unreachable(errors.New("what the homeserver can do is not readable"))
	}
	exchange.ReplaceBody(resp, changed)
	return x.Upstream.Relay(x, resp)
}

// isSlidingSync reports whether a feature's name is one of sliding sync's, in any form
// ("org.matrix.simplified_msc3575").
func isSlidingSync(name string) bool {
	return strings.Contains(name, "msc3575") || strings.Contains(name, "msc4186")
}
