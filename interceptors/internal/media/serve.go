package media

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/internal/exchange"
)

// How a file is shown: what it is was said by whoever sent it, so that nothing of it may run in
// a browser.

// inlineTypes are the types that clients may show in place (spec, "Serving inline content").
// Everything else is for download, without a type of its own.
func inlineTypes() []string {
	return []string{
		"text/css", "text/plain", "text/csv", "application/json", "application/ld+json",
		"image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif",
		"video/mp4", "video/webm", "video/ogg", "video/quicktime",
		"audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave",
		"audio/wav", "audio/x-wav", "audio/x-pn-wav", "audio/flac", "audio/x-flac",
	}
}

// policy is the specification's Content-Security-Policy for files.
const policy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';"

// forDownload are types that are no danger when they are saved.
func forDownload() []string {
	return []string{"application/pdf", "application/zip", "application/gzip", "application/x-tar"}
}

// shownAs returns the type and the disposition of a file.
func shownAs(f *attachment.File, name string) (contentType, disposition string) {
	contentType, disposition = opaque, "attachment"
	kind, _, err := mime.ParseMediaType(f.Type)
	switch {
	case err != nil:
	case slices.Contains(inlineTypes(), kind):
		contentType, disposition = kind, "inline"
		if kind == "text/plain" {
			contentType += "; charset=utf-8"
		}
	case slices.Contains(forDownload(), kind):
		contentType = kind
	}
	if name = safeName(name); name != "" {
		if named := mime.FormatMediaType(disposition, map[string]string{"filename": name}); named != "" {
			disposition = named
		}
	}
	return contentType, disposition
}

// safeName returns a name for a file without the way to a folder (attack 44), and without what
// cannot be seen.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r == '\\':
			return '/'
		case r < ' ', r == 0x7f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == '\ufffd':
			return -1
		}
		return r
	}, name)
	name = path.Base(name)
	if name == "." || name == ".." || name == "/" {
		return ""
	}
	return name
}

// tag returns the ETag of a file. It is for one account, and the same for as long as the URI
// means anything.
func tag(f *attachment.File, uri, variant string) string {
	sum := sha256.Sum256([]byte(uri + "\x00" + string(f.Key.Hash[:]) + "\x00" + variant))
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:18]) + `"`
}

// setHeader sets what goes out with every answer that has a file, or says that it is unchanged.
func setHeader(h http.Header, etag string) {
	h.Set("ETag", etag)
	h.Set("Cache-Control", "private, max-age=86400, immutable")
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "Content-Disposition, Content-Range, Accept-Ranges, ETag")
}

// unchanged answers a client that has the file already, and reports whether it did.
func unchanged(x *exchange.Exchange, etag string) bool {
	for has := range strings.SplitSeq(strings.Join(x.Request.Header.Values("If-None-Match"), ","), ",") {
		if has = strings.TrimPrefix(strings.TrimSpace(has), "W/"); has == etag || has == "*" {
			setHeader(x.Writer.Header(), etag)
			x.Writer.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

// serve answers with a file in clear.
func (m *Media) serve(x *exchange.Exchange, f *attachment.File, uri string) (err error) {
	etag := tag(f, uri, "")
	if unchanged(x, etag) {
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
	name := f.Name
	if said := x.Endpoint.Params["fileName"]; said != "" {
		name = said
	}
	m.answer(x, f, name, etag, body.clear())
	return nil
}

// answer answers with a file in clear, or with the parts of it that the client asks for.
func (*Media) answer(x *exchange.Exchange, f *attachment.File, name, etag string, body io.ReadSeeker) {
	contentType, disposition := shownAs(f, name)
	h := x.Writer.Header()
	setHeader(h, etag)
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", disposition)
	http.ServeContent(ahead{x.Writer}, x.Request, "", time.Time{}, body)
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("give back what a file was kept in: %w", err)
	}
	return nil
}
