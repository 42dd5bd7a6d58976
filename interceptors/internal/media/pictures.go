package media

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/internal/thumbnail"
)

const (
	// maxPictures is how many thumbnails are kept, maxPicture how large each may be, in bytes.
	maxPictures = 256
	maxPicture  = 128 << 10
)

// pictures keeps thumbnails for a while, sealed under a key that only this process has. What a
// thumbnail is of is named by everything that the file is, so that one file under two keys has
// two.
type pictures struct {
	kept *lru.Cache[[sha256.Size]byte, sealedPicture]
	seal cipher.AEAD
}

type sealedPicture struct {
	thumbnail.Picture // its Data is sealed
}

func newPictures() (*pictures, error) {
	kept, err := lru.New[[sha256.Size]byte, sealedPicture](maxPictures)
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

func pictureName(f *attachment.File, variant string) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range [][]byte{f.Key.Secret[:], f.Key.Counter[:], f.Key.Hash[:], []byte(f.URL), {0}, []byte(variant)} {
		h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (p *pictures) get(f *attachment.File, variant string) (thumbnail.Picture, bool) {
	name := pictureName(f, variant)
	kept, ok := p.kept.Get(name)
	if !ok {
		return thumbnail.Picture{}, false
	}
	out := kept.Picture
	var err error
	out.Data, err = p.seal.Open(nil, nil, kept.Data, name[:])
	return out, err == nil
}

func (p *pictures) put(f *attachment.File, variant string, made thumbnail.Picture) {
	if len(made.Data) > maxPicture {
		return
	}
	name := pictureName(f, variant)
	made.Data = p.seal.Seal(nil, nil, made.Data, name[:])
	p.kept.Add(name, sealedPicture{made})
}
