package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/thumbnail"
)

// wanted reads which thumbnail a client wants.
func wanted(x *exchange.Exchange) (thumbnail.Want, error) {
	query := x.Request.URL.Query()
	number := func(name string) int {
		n, err := strconv.Atoi(query.Get(name))
		if err != nil || n < 1 {
			return 0
		}
		return min(n, thumbnail.MaxSide)
	}
	w := thumbnail.Want{Width: number("width"), Height: number("height")}
	if w.Width == 0 || w.Height == 0 {
		return w, apierr.InvalidParam("width and height must be numbers of pixels.")
	}
	if query.Get("method") == "crop" {
		w.Method = thumbnail.Crop
	}
	return w, nil
}

// serveThumbnail answers with a smaller picture, or with the picture itself if it is no larger.
func (m *Media) serveThumbnail(x *exchange.Exchange, f *attachment.File, uri string) (err error) {
	want, err := wanted(x)
	if err != nil {
		return err
	}
	variant := fmt.Sprint(want)
	etag := tag(f, uri, variant)
	if unchanged(x, etag) {
		return nil
	}
	name := nameOf(x.Identity.UserID, f, variant)
	if kept, ok := m.small.get(name); ok {
		answerPicture(x, kept, etag)
		return nil
	}
	body, err := m.fetch(x, f)
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return x.RelayAndClose(refused.resp)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wrap(body.Close())) }()
	made, err := m.maker.Make(x.Request.Context(), body.clear(), body.Size(), want)
	switch {
	case errors.Is(err, thumbnail.ErrSmall):
		m.answer(x, f, f.Name, etag, body.clear())
		return nil
	case err != nil:
		return notMade(err)
	}
	m.small.put(name, made, body.until)
	answerPicture(x, made, etag)
	return nil
}

func answerPicture(x *exchange.Exchange, p thumbnail.Picture, etag string) {
	h := x.Writer.Header()
	setHeader(h, etag)
	h.Set("Content-Type", p.Type)
	h.Set("Content-Disposition", "inline; filename=thumbnail")
	http.ServeContent(x.Writer, x.Request, "", time.Time{}, bytes.NewReader(p.Data))
}

// notMade returns the client's error for a picture of which there is no thumbnail.
func notMade(err error) error {
	switch {
	case errors.Is(err, thumbnail.ErrTooLarge):
		return apierr.NewError(http.StatusRequestEntityTooLarge, apierr.CodeTooLarge, "The picture is too large to make a thumbnail of it.").
			WithHint("Download the file.").Because(err)
	case errors.Is(err, thumbnail.ErrNotPicture), errors.Is(err, thumbnail.ErrBroken):
		return apierr.NewError(http.StatusBadRequest, apierr.CodeUnknown, "No thumbnail can be made of this file.").
			WithHint("Download the file.").Because(err)
	}
	return fmt.Errorf("make a thumbnail: %w", err)
}

// forSendingTime bounds how long a send waits for a thumbnail.
const forSendingTime = 10 * time.Second

// ForSending returns the thumbnail that belongs to a picture where it is sent (MSC4409), encrypted
// and uploaded; one without a URL when the picture is small, or none that can be read. It is
// made once.
func (m *Media) ForSending(x *exchange.Exchange, files exchange.Files, uri string, f attachment.File) (*attachment.Small, error) {
	if f.Small != nil {
		return f.Small, nil
	}
	leave, err := m.copying.Take(x.Request.Context(), string(x.Identity.UserID)+" "+uri)
	if err != nil {
		return nil, err
	}
	defer leave()
	known, err := files.Lookup(x.Request.Context(), []string{uri})
	if err != nil {
		return nil, fmt.Errorf("look up a file: %w", err)
	}
	if now, ok := known[uri]; ok && now.Small != nil {
		return now.Small, nil
	}
	if f.Small, err = m.makeSmall(x, &f); err != nil {
		return nil, err
	}
	if err := files.Changed(x.Request.Context(), uri, f); err != nil {
		return nil, fmt.Errorf("store a thumbnail: %w", err)
	}
	return f.Small, nil
}

func (m *Media) makeSmall(x *exchange.Exchange, f *attachment.File) (_ *attachment.Small, err error) {
	if f.Size > thumbnail.DefaultLimits().Bytes {
		return &attachment.Small{}, nil
	}
	body, err := m.fetch(x, f)
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return &attachment.Small{}, wrap(refused.resp.Body.Close())
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, wrap(body.Close())) }()
	ctx, cancel := context.WithTimeout(x.Request.Context(), forSendingTime)
	defer cancel()
	made, err := m.maker.ForSending(ctx, body.clear(), body.Size())
	if x.Request.Context().Err() != nil {
		return nil, context.Cause(x.Request.Context())
	}
	if err != nil { // a message without a thumbnail is whole
		return &attachment.Small{}, nil //nolint:nilerr // see above
	}
	up, err := attachment.NewUpload(bytes.NewReader(made.Data))
	if err != nil {
		return nil, fmt.Errorf("encrypt a thumbnail: %w", err)
	}
	at, err := m.put(x, identityQuery(x), up, int64(len(made.Data)), opaque)
	if err != nil {
		return &attachment.Small{}, nil //nolint:nilerr // as above
	}
	small, err := up.File(at)
	if err != nil {
		return nil, fmt.Errorf("upload a thumbnail: %w", err)
	}
	return &attachment.Small{URL: at, Key: small.Key, Type: made.Type, Size: small.Size, Width: made.Width, Height: made.Height}, nil
}
