package interceptors

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/interceptors/internal/exchange"
)

// GET media/config tells clients how large a file may be, so that they need not find out by
// sending it. An upload passes two limits, the proxy's and the homeserver's, and the smaller
// one is told: encrypting changes no length. What else the homeserver says stays.

const uploadSize = "m.upload.size"

// mediaConfig returns the handler of [MediaConfig]; own is the proxy's limit, zero if it has
// none. Refusals pass. Where the homeserver does not answer, or does not say, the proxy's
// limit is what is known.
func mediaConfig(own int64) Handler {
	return func(x *Exchange) error {
		if own <= 0 {
			return x.Upstream.Forward(x)
		}
		resp, err := x.Upstream.Do(x, Change{})
		if err != nil {
			if x.Request.Context().Err() != nil {
				return err
			}
			return ownMediaConfig(x, own)
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode/100 == 4 {
			return x.Upstream.Relay(x, resp)
		}
		raw := exchange.Peek(resp)
		if resp.StatusCode != http.StatusOK || raw == nil || exchange.CheckObject(raw) != nil {
			return ownMediaConfig(x, own)
		}
		said, err := exchange.ParseObject(raw)
		if err != nil {
			return ownMediaConfig(x, own)
		}
		if said, ok := wholeNumber(said.Get(uploadSize)); ok && said <= own {
			return x.Upstream.Relay(x, resp)
		}
		changed, err := withMember(raw, uploadSize, strconv.AppendInt(nil, own, 10))
		if err != nil {
			return ownMediaConfig(x, own)
		}
		exchange.ReplaceBody(resp, changed)
		return x.Upstream.Relay(x, resp)
	}
}

func ownMediaConfig(x *Exchange, own int64) error {
	return x.WriteJSON(map[string]int64{uploadSize: own})
}

// wholeNumber reads a size, in any form that JSON has for one.
func wholeNumber(value []byte) (int64, bool) {
	if jsontext.Value(value).Kind() != '0' {
		return 0, false
	}
	var f float64
	if json.Unmarshal(value, &f) != nil || f < 0 || f > math.MaxInt64/2 {
		return 0, false
	}
	return int64(f), true
}
