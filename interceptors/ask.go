package interceptors

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// ask asks the homeserver for something about a room, with the client's token. An answer that
// is not 200 has no body; one about the token is an error.
func ask(ctx context.Context, x *Exchange, c Change) (jsontext.Value, int, error) {
	asking := *x
	asking.Request = x.Request.Clone(ctx)
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	c.Method = http.MethodGet
	resp, err := x.Upstream.Do(&asking, c)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusUnauthorized {
		return nil, 0, apierr.FromResponse(resp)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode, nil
	}
	return exchange.PeekUpTo(resp, maxContext), http.StatusOK, nil
}
