package media

import (
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"sync/atomic"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Files in clear that a client names in an encrypted room: forwarded ones, stickers of a pack.

// Wrap returns an encrypted copy of a file that is in clear. It is made once, while the file
// streams from the homeserver to the homeserver. found is false for one that cannot be had, and
// for one of which nobody says what it is: that may be something that was encrypted by this
// proxy, and whose key was forgotten.
func (m *Media) Wrap(x *exchange.Exchange, files exchange.Files, uri string) (f attachment.File, found bool, err error) {
	server, mediaID, ok := attachment.SplitURI(uri)
	if !ok || attachment.MadeHere(mediaID) {
		return f, false, nil
	}
	ctx := x.Request.Context()
	leave, err := m.copying.Take(ctx, string(x.Identity.UserID)+" "+uri)
	if err != nil {
		return f, false, err
	}
	defer leave()
	known, err := files.Lookup(ctx, []string{uri})
	if err != nil {
		return f, false, fmt.Errorf("look up a file: %w", err)
	}
	if f, found = known[uri]; found {
		return f, true, nil
	}
	resp, err := x.Upstream.Do(x, exchange.Change{
		Method: http.MethodGet, Pattern: downloadPattern, Params: map[string]string{"serverName": server, "mediaId": mediaID},
		Query: identityQuery(x), Stream: http.NoBody,
	})
	if err != nil {
		return f, false, err //nolint:wrapcheck // it is for the client
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= http.StatusInternalServerError:
		return f, false, unusable("The homeserver does not return the file of this message now, so that the message was not sent.")
	case resp.StatusCode != http.StatusOK, !described(resp.Header):
		return f, false, nil
	}
	if f, err = m.wrap(x, resp); err != nil {
		return f, false, err
	}
	f.Copy = uri // it is in clear already
	if err := files.Changed(ctx, uri, f); err != nil {
		return f, false, fmt.Errorf("store the key of a file: %w", err)
	}
	return f, true, nil
}

// described reports whether a homeserver says of a file what it is. Of what this proxy
// uploads nobody tells it.
func described(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil && kind != opaque {
		return true
	}
	_, named, err := mime.ParseMediaType(h.Get("Content-Disposition"))
	return err == nil && named["filename"] != ""
}

// wrap uploads a file encrypted while it is downloaded.
func (m *Media) wrap(x *exchange.Exchange, resp *http.Response) (attachment.File, error) {
	body := &bounded{from: resp.Body, left: math.MaxInt64}
	if m.maxUpload > 0 {
		body.left = m.maxUpload
	}
	if resp.ContentLength > body.left {
		return attachment.File{}, tooLarge()
	}
	up, err := attachment.NewUpload(body)
	if err != nil {
		return attachment.File{}, fmt.Errorf("encrypt a file: %w", err)
	}
	at, err := m.put(x, identityQuery(x), up, resp.ContentLength, opaque)
	switch {
	case body.over.Load():
		return attachment.File{}, tooLarge()
	case err != nil:
		return attachment.File{}, err
	}
	f, err := up.File(at)
	if err != nil {
		return f, unusable("The homeserver did not return the whole file of this message, so that the message was not sent.")
	}
	f.Type = resp.Header.Get("Content-Type")
	return f, nil
}

// bounded is a body that may have so many bytes and no more.
type bounded struct {
	from io.Reader
	left int64
	over atomic.Bool // the transport may still read when an answer came early
}

var errTooLarge = errors.New("the file is larger than what may be uploaded")

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left+1]
	}
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.over.Store(true)
		return 0, errTooLarge
	}
	return n, err //nolint:wrapcheck // it is the reader's, io.EOF above all
}

func tooLarge() error {
	return apierr.NewError(http.StatusRequestEntityTooLarge, apierr.CodeTooLarge,
		"The file of this message is not encrypted, and larger than what may be uploaded, so that the message was not sent.").Because(errTooLarge)
}
