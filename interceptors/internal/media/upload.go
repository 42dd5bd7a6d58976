package media

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/thumbnail"
	"e2ee-proxy/internal/turns"
)

// Media holds the handlers of files.
type Media struct {
	spools  exchange.Spools
	copying turns.Turns[string]
	// fetching are the files that are being downloaded, kept those that were.
	fetching turns.Turns[keptName]
	kept     *Kept
	maker    *thumbnail.Maker
	small    *pictures
	// maxUpload is the largest file that is uploaded, in bytes; zero: there is no bound here.
	maxUpload int64
}

// New returns the handlers. They share what keeps copies from being made twice, so that a
// process calls this once. maxUpload is the largest upload, zero if there is no limit. keep is
// where checked files are kept for a while, and makes room for the spools; nil: none are.
func New(spools exchange.Spools, maxUpload int64, keep *Kept) (*Media, error) {
	if keep == nil {
		keep = NewKept()
		keep.closed = true
	}
	if spools.Disk != nil {
		spools.Disk.OnSpent(func(owner string) bool {
			return owner == "" && spools.Files.Drop() || keep.makeRoom(owner)
		})
	}
	if spools.RAM != nil {
		spools.RAM.OnSpent(keep.makeRoom)
	}
	small, err := newPictures()
	if err != nil {
		return nil, err
	}
	return &Media{
		spools: spools, kept: keep,
		maker: thumbnail.New(thumbnail.DefaultLimits()), small: small, maxUpload: maxUpload,
	}, nil
}

// opaque is the type of everything that is uploaded encrypted.
const opaque = "application/octet-stream"

// Upload handles POST upload, and PUT upload/{serverName}/{mediaId}: the file is encrypted
// while it streams, and its key is stored before the client learns that it was uploaded.
func (m *Media) Upload(x *exchange.Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	switch pass, err := passes(dev.Mode()); {
	case err != nil:
		return err
	case pass:
		return x.Upstream.Forward(x)
	}
	up, err := attachment.NewUpload(x.Request.Body)
	if err != nil {
		return fmt.Errorf("encrypt a file: %w", err)
	}
	query := x.Request.URL.Query()
	resp, err := x.Upstream.Do(x, exchange.Change{
		Query: exchange.IdentityQuery(query), Stream: up, Length: x.Request.ContentLength, ContentType: opaque,
	})
	if err != nil {
		return cutOff(x, max(up.Size(), x.Request.ContentLength), err)
	}
	if resp.StatusCode != http.StatusOK {
		return x.RelayAndClose(resp)
	}
	defer resp.Body.Close() //nolint:errcheck // it is relayed, or the request failed
	uri := "mxc://" + x.Endpoint.Params["serverName"] + "/" + x.Endpoint.Params["mediaId"]
	if x.Endpoint.Params["mediaId"] == "" {
		uri = exchange.AnswerObject(resp).TextOrEmpty("content_uri")
	}
	if _, _, ok := attachment.SplitURI(uri); !ok {
		return unusable("The homeserver took the file and did not say where it is.")
	}
	f, err := up.File(uri)
	if err != nil {
		return fmt.Errorf("upload a file: %w", err)
	}
	f.Type, f.Name = x.Request.Header.Get("Content-Type"), query.Get("filename")
	if err := dev.Files().Add(x.Request.Context(), f); err != nil {
		return notKept("store the key of a file", err)
	}
	return x.Upstream.Relay(x, resp) //nolint:wrapcheck // it is for the client
}

// passes reports whether uploads pass as they come: those of clients that encrypt by themselves,
// and of tokens without a device, which can send nothing to encrypted rooms. A client whose
// keys were lost does not encrypt, and nobody knows which room a file is for: so it is refused.
func passes(mode e2ee.Mode) (bool, error) {
	switch mode {
	case e2ee.ModeProxied:
		return false, nil
	case e2ee.ModeForeign, e2ee.ModeNone:
		return true, nil
	case e2ee.ModeLost:
		return false, engineerr.KeysLost()
	case e2ee.ModeUnknown:
	}
	return false, apierr.CannotEncrypt(false, errors.New("the device has not been compared with the homeserver"))
}

// The places of a homeserver's limits, the older one last.
func configPatterns() [2]string {
	return [...]string{"/_matrix/client/v1/media/config", "/_matrix/media/v3/config"}
}

// cutOff returns the client's error for an upload of so many bytes that the homeserver broke off.
// Synapse does that, and says nothing, with one that is larger than it takes: a client that
// is told that the homeserver cannot be reached tries again for ever.
func cutOff(x *exchange.Exchange, size int64, err error) error {
	said, ok := errors.AsType[*apierr.Error](err)
	if !ok || said.Status != http.StatusBadGateway || x.Request.Context().Err() != nil {
		return err
	}
	for _, pattern := range configPatterns() {
		resp, failed := x.Upstream.Do(x, exchange.Change{Method: http.MethodGet, Pattern: pattern, Query: identityQuery(x), Stream: http.NoBody})
		if failed != nil {
			return err
		}
		var limit float64
		known := resp.StatusCode == http.StatusOK && json.Unmarshal(exchange.AnswerObject(resp).Get("m.upload.size"), &limit) == nil
		if resp.Body.Close() != nil {
			return err
		}
		if known && limit > 0 && limit < float64(size) {
			return apierr.TooLarge(int64(limit)).Because(err)
		}
		if known {
			return err
		}
	}
	return err
}

// Create handles POST create: the client may name the file before it is uploaded, which must
// not be taken for a file that the proxy has nothing to do with.
func (m *Media) Create(x *exchange.Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	switch pass, err := passes(dev.Mode()); {
	case err != nil:
		return err
	case pass:
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, exchange.Change{})
	if err != nil {
		return err //nolint:wrapcheck // it is for the client
	}
	if resp.StatusCode != http.StatusOK {
		return x.RelayAndClose(resp)
	}
	defer resp.Body.Close() //nolint:errcheck // it is relayed, or the request failed
	uri := exchange.AnswerObject(resp).TextOrEmpty("content_uri")
	if _, _, ok := attachment.SplitURI(uri); !ok {
		return unusable("The homeserver did not say where the file may be uploaded.")
	}
	if err := dev.Files().Add(x.Request.Context(), attachment.File{URL: uri, Reserved: true}); err != nil {
		return notKept("store the place of a file", err)
	}
	return x.Upstream.Relay(x, resp) //nolint:wrapcheck // it is for the client
}

// identityQuery is the query of the proxy's own requests for a client.
func identityQuery(x *exchange.Exchange) url.Values {
	return exchange.IdentityQuery(x.Request.URL.Query())
}
