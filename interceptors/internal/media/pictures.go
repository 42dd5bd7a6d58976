package media

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"e2ee-proxy/interceptors/internal/thumbnail"
)

const (
	// maxPictures is how many thumbnails are kept, maxPicture how large each may be, in bytes.
	maxPictures = 256
	maxPicture  = 128 << 10
)

// pictures keeps thumbnails for as long as files are kept, sealed under a key that only this process
// has. What a thumbnail is of is named by everything that the file is, so that one file under
// two keys has two, and by the account that the homeserver gave the file to.
type pictures struct {
	kept *lru.Cache[keptName, sealedPicture]
	seal cipher.AEAD
}

type sealedPicture struct {
	thumbnail.Picture // its Data is sealed
	until             time.Time
}

func newPictures() (*pictures, error) {
	kept, err := lru.New[keptName, sealedPicture](maxPictures)
	if err != nil {
		return nil, fmt.Errorf("make the memory of thumbnails: %w", err)
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // crypto/rand never returns an error
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("make the memory of thumbnails: %w", err)
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make the memory of thumbnails: %w", err)
	}
	return &pictures{kept, seal}, nil
}

func (p *pictures) get(name keptName) (thumbnail.Picture, bool) {
	kept, ok := p.kept.Get(name)
	if !ok || time.Now().After(kept.until) {
		return thumbnail.Picture{}, false
	}
	out := kept.Picture
	var err error
	out.Data, err = p.seal.Open(nil, nil, kept.Data, name[:])
	return out, err == nil
}

// put keeps a thumbnail of a file that the homeserver gave out before until, less keepFor.
func (p *pictures) put(name keptName, made thumbnail.Picture, until time.Time) {
	if len(made.Data) > maxPicture {
		return
	}
	made.Data = p.seal.Seal(nil, nil, made.Data, name[:])
	p.kept.Add(name, sealedPicture{made, until})
}
