package sharedhistory

import (
	"encoding/json"
	"fmt"
	"regexp"

	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// file is an EncryptedFile (Client-Server API, Sending encrypted attachments): where the
// bundle lies and how it is encrypted.
type file struct {
	attachment.EncryptedFile
	URL id.ContentURIString `json:"url"`
}

// content is the content of an m.room_key_bundle.
type content struct {
	RoomID id.RoomID `json:"room_id"`
	File   file      `json:"file"`
}

// parseContent reads the content of a bundle's message strictly.
func parseContent(raw json.RawMessage) (content, error) {
	var c content
	if err := strictjson.Unmarshal(raw, &c); err != nil {
		return content{}, fmt.Errorf("%w: room key bundle", strictjson.ErrMalformed)
	}
	if c.RoomID == "" || len(c.RoomID) > wire.MaxIDLength || c.File.PrepareForDecryption() != nil {
		return content{}, fmt.Errorf("%w: room key bundle", strictjson.ErrMalformed)
	}
	if _, err := c.File.place(); err != nil {
		return content{}, err
	}
	// Its unknown members are not kept, and what is kept is small.
	c.File.Key.KeyOps = nil
	return c, nil
}

var (
	serverName = regexp.MustCompile(`^[0-9A-Za-z\[][0-9A-Za-z.:\[\]-]*$`)
	mediaID    = regexp.MustCompile(`^[0-9A-Za-z_-]+$`)
)

// place returns where the file lies. Nothing else may get into the path of a request.
func (f *file) place() (id.ContentURI, error) {
	uri, err := f.URL.Parse()
	if err != nil || len(f.URL) > 2*wire.MaxIDLength || !serverName.MatchString(uri.Homeserver) || !mediaID.MatchString(uri.FileID) {
		return id.ContentURI{}, fmt.Errorf("%w: place of a room key bundle", strictjson.ErrMalformed)
	}
	return uri, nil
}
