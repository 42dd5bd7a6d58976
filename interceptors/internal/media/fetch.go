package media

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/spool"
)

// The endpoints that are asked, whatever the client asked for: homeservers serve files with a
// token only (spec 1.11).
const (
	downloadPattern = "/_matrix/client/v1/media/download/{serverName}/{mediaId}"
	uploadPattern   = "/_matrix/media/v3/upload"
)

// fetched is the ciphertext of a file, checked.
type fetched struct {
	*kept
	file attachment.File
}

// clear returns the clear text. It may be called more than once.
func (f *fetched) clear() *attachment.Clear { return f.file.Clear(f.kept, f.Size()) }

// Upload is a file that a client has uploaded. It must be closed.
type Upload struct{ *fetched }

// Reader returns a new reader of the clear text.
func (u *Upload) Reader() io.Reader { return u.clear() }

// Uploaded returns a file of the account's that its homeserver has encrypted; nil for any other.
func (m *Media) Uploaded(x *exchange.Exchange, uri string) (*Upload, error) {
	dev, err := x.Device()
	if err != nil {
		return nil, err
	}
	known, err := dev.Files().Lookup(x.Request.Context(), []string{uri})
	if err != nil {
		return nil, fmt.Errorf("look up a file: %w", err)
	}
	f, ok := known[uri]
	if !ok || f.Reserved || f.Copy == uri {
		return nil, nil
	}
	got, err := m.fetch(x, &f)
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return nil, errors.Join(unusable("The homeserver does not give the file out."), refused.resp.Body.Close())
	}
	if err != nil {
		return nil, err
	}
	return &Upload{got}, nil
}

// refusedError is an answer of the homeserver that is no file.
type refusedError struct{ resp *http.Response }

func (e *refusedError) Error() string {
	return fmt.Sprintf("the homeserver answered %d for a file", e.resp.StatusCode)
}

// fetch returns a checked file, one that is kept or one that is downloaded, by one request at a
// time. It must be closed. What the homeserver says against it is a *refusedError, whose response
// must be closed.
func (m *Media) fetch(x *exchange.Exchange, f *attachment.File) (*fetched, error) {
	owner := x.Identity.UserID
	name := nameOf(owner, f, "")
	leave, err := m.fetching.Take(x.Request.Context(), name)
	if err != nil {
		return nil, err
	}
	defer leave()
	if has, ok := m.kept.get(name); ok {
		return &fetched{has, *f}, nil
	}
	checked, err := m.download(x, f)
	if err != nil {
		return nil, err
	}
	has, err := m.kept.put(name, owner, checked)
	if err != nil {
		return nil, errors.Join(wrap(err), wrap(has.Close()))
	}
	return &fetched{has, *f}, nil
}

// download is fetch from the homeserver.
func (m *Media) download(x *exchange.Exchange, f *attachment.File) (_ *spool.Spool, err error) {
	server, mediaID := f.Place()
	resp, err := x.Upstream.Do(x, exchange.Change{
		Method: http.MethodGet, Pattern: downloadPattern, Params: map[string]string{"serverName": server, "mediaId": mediaID},
		Query: identityQuery(x), Stream: http.NoBody,
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it is for the client
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &refusedError{resp}
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	keep := m.spools.NewOfCiphertext(x.Identity.UserID, resp.ContentLength)
	defer func() {
		if err != nil {
			err = errors.Join(err, keep.Close())
		}
	}()
	check := attachment.NewCheck()
	if err := check.Copy(exchange.Keeping(keep), resp.Body); err != nil {
		if full := exchange.SpoolFailure(err); full != nil {
			return nil, full
		}
		return nil, unusable("The homeserver did not return the whole file.")
	}
	if !check.Fits(f) {
		return nil, damaged()
	}
	return keep, nil
}

// Copy returns the URI of a copy of a file in clear, which is made if there is none.
func (m *Media) Copy(x *exchange.Exchange, files exchange.Files, uri string, f attachment.File) (string, error) {
	if f.Copy != "" {
		return f.Copy, nil
	}
	ctx := x.Request.Context()
	leave, err := m.copying.Take(ctx, string(x.Identity.UserID)+" "+uri)
	if err != nil {
		return "", err
	}
	defer leave()
	known, err := files.Lookup(ctx, []string{uri})
	if err != nil {
		return "", fmt.Errorf("look up a file: %w", err)
	}
	if now, ok := known[uri]; ok && now.Copy != "" {
		return now.Copy, nil
	}
	if f.Copy, err = m.upload(x, &f); err != nil {
		return "", err
	}
	if err := files.Changed(ctx, uri, f); err != nil {
		return "", fmt.Errorf("store the place of a copy: %w", err)
	}
	return f.Copy, nil
}

// upload uploads a file in clear, and returns its URI.
func (m *Media) upload(x *exchange.Exchange, f *attachment.File) (uri string, err error) {
	body, err := m.fetch(x, f)
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return "", errors.Join(unusable("The homeserver does not return the file, so that it cannot be sent where everybody can read it."), refused.resp.Body.Close())
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	query := identityQuery(x)
	if f.Name != "" {
		query.Set("filename", f.Name)
	}
	contentType := f.Type
	if contentType == "" {
		contentType = opaque
	}
	return m.put(x, query, body.clear(), body.Size(), contentType)
}

// put uploads something as it is, and returns its URI.
func (*Media) put(x *exchange.Exchange, query url.Values, body io.Reader, size int64, contentType string) (string, error) {
	resp, err := x.Upstream.Do(x, exchange.Change{
		Method: http.MethodPost, Pattern: uploadPattern, Query: query, Stream: body, Length: size, ContentType: contentType,
	})
	if err != nil {
		return "", err //nolint:wrapcheck // it is for the client
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	uri := exchange.AnswerObject(resp).TextOrEmpty("content_uri")
	if _, _, ok := attachment.SplitURI(uri); !ok || resp.StatusCode != http.StatusOK {
		return "", unusable("The homeserver does not take the file, so that it cannot be sent.")
	}
	return uri, nil
}
