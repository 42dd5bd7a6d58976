package media

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Download handles download/{serverName}/{mediaId}[/{fileName}], on the endpoints that need a
// token and on the older ones.
func (m *Media) Download(x *exchange.Exchange) error { return m.get(x, m.serve) }

// Thumbnail handles thumbnail/{serverName}/{mediaId}. The homeserver cannot make one of what it
// cannot read, and is not asked.
func (m *Media) Thumbnail(x *exchange.Exchange) error { return m.get(x, m.serveThumbnail) }

// get answers with a file that the account knows by serve, and passes others.
func (m *Media) get(x *exchange.Exchange, serve func(*exchange.Exchange, *attachment.File, string) error) error {
	mediaID := x.Endpoint.Params["mediaId"]
	uri := "mxc://" + x.Endpoint.Params["serverName"] + "/" + mediaID
	if x.Identity.UserID == "" { // without a token, or with one that is not valid
		if attachment.MadeHere(mediaID) {
			return linked(x, uri, serve)
		}
		return x.Upstream.Forward(x)
	}
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		if attachment.MadeHere(mediaID) {
			return unknown()
		}
		return x.Upstream.Forward(x)
	}
	known, err := dev.Files().Lookup(x.Request.Context(), []string{uri})
	if err != nil {
		return fmt.Errorf("look up a file: %w", err)
	}
	f, ok := known[uri]
	switch {
	case ok && f.Copy == uri: // it is in clear there
		return pass(x)
	case ok && !f.Reserved:
		return serve(x, &f, uri)
	case attachment.MadeHere(mediaID):
		return unknown()
	}
	return pass(x)
}

// linked answers a client that sends no token with a file that it has a link to: in the name of
// the device that was shown the link. Whatever else it sends says nothing.
func linked(x *exchange.Exchange, uri string, serve func(*exchange.Exchange, *attachment.File, string) error) error {
	if !x.Identity.Token.IsZero() {
		return apierr.MissingToken()
	}
	who, dev, found, err := x.Devices.Linked(x.Request.Context(), uri)
	switch {
	case err != nil:
		return fmt.Errorf("look up a link: %w", err)
	case !found || dev.Mode() != e2ee.ModeProxied:
		return apierr.MissingToken()
	}
	known, err := dev.Files().Lookup(x.Request.Context(), []string{uri})
	if err != nil {
		return fmt.Errorf("look up a file: %w", err)
	}
	f, ok := known[uri]
	if !ok || f.Reserved {
		return unknown()
	}
	as := *x
	as.Identity, as.Request = who, x.Request.Clone(x.Request.Context())
	as.Request.Header.Set("Authorization", "Bearer "+who.Token.Reveal())
	query := as.Request.URL.Query()
	for name := range exchange.IdentityQuery(query) {
		query.Del(name)
	}
	as.Request.URL.RawQuery = query.Encode()
	return serve(&as, &f, uri)
}

const olderMedia = "/_matrix/media/{version}/"

// pass passes a request for a file that is in clear. One on an older endpoint, which homeservers
// serve less and less, goes to the one that needs a token.
func pass(x *exchange.Exchange) error {
	rest, older := strings.CutPrefix(x.Endpoint.Pattern, olderMedia)
	if !older {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, exchange.Change{Pattern: "/_matrix/client/v1/media/" + rest})
	if err != nil {
		return err //nolint:wrapcheck // it is for the client
	}
	if resp.StatusCode == http.StatusNotFound && exchange.AnswerObject(resp).TextOrEmpty("errcode") == apierr.CodeUnrecognized {
		return errors.Join(resp.Body.Close(), x.Upstream.Forward(x))
	}
	return x.RelayAndClose(resp)
}
