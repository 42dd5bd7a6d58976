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
// Sliding sync (MSC3575, MSC4186) is refused by the route table: a client that found it
// here would stop instead of using /sync. So it is removed, with and without a token,
// because clients ask before they log in. Everything else stays.

// versions handles [Versions].
func versions(x *Exchange) error {
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
