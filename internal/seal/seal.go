package seal

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Sizes in bytes.
const (
	KeySize  = chacha20poly1305.KeySize
	IDSize   = 8
	Overhead = 1 + IDSize + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
)

// format is the first byte of every sealed value. A change of the layout or of the
// associated data gets the next number.
const format = 1

// Errors of opening. All of them mean that nothing was decrypted.
var (
	// ErrMalformed means that the bytes are not a sealed value.
	ErrMalformed = errors.New("not a sealed value")
	// ErrOtherKey means that the value was sealed under a key with another ID.
	ErrOtherKey = errors.New("sealed under another key")
	// ErrRefused means that the value, or its place, is not the one that was sealed.
	ErrRefused = errors.New("sealed value refused: changed, or in a place it was not sealed for")
)

// ID names a key. It is not secret.
type ID [IDSize]byte

// String returns the ID in hexadecimal.
func (i ID) String() string { return hex.EncodeToString(i[:]) }

// NewID makes a random ID.
func NewID() ID {
	var i ID
	_, _ = rand.Read(i[:]) // crypto/rand never returns an error
	return i
}

// Place is where a sealed value belongs. It is authenticated, not stored: who opens the
// value says where it was found.
type Place struct {
	Database string
	Table    string
	Account  string
	Column   string
	// Row identifies the row, and holds any clear columns that must not be changed without the
	// sealed one.
	Row []string
}

// Key seals and opens. It is safe for concurrent use.
type Key struct {
	id   ID
	aead cipher.AEAD
}

// NewKey makes a Key of [KeySize] bytes, which it does not keep.
func NewKey(id ID, key []byte) (*Key, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("make sealing key: want %d bytes, have %d", KeySize, len(key))
	}
	return &Key{id: id, aead: aead}, nil
}

// ID returns the name of the key.
func (k *Key) ID() ID { return k.id }

// Seal encrypts plain for one place.
func (k *Key) Seal(plain []byte, p Place) []byte {
	out := make([]byte, 1+IDSize+chacha20poly1305.NonceSizeX, len(plain)+Overhead)
	out[0] = format
	copy(out[1:], k.id[:])
	nonce := out[1+IDSize:]
	_, _ = rand.Read(nonce) // crypto/rand never returns an error
	return k.aead.Seal(out, nonce, plain, associated(k.id, p))
}

// Open decrypts what [Key.Seal] made for the same place.
func (k *Key) Open(sealed []byte, p Place) ([]byte, error) {
	id, err := KeyOf(sealed)
	if err != nil {
		return nil, err
	}
	if id != k.id {
		return nil, ErrOtherKey
	}
	nonce := sealed[1+IDSize : 1+IDSize+chacha20poly1305.NonceSizeX]
	box := sealed[1+IDSize+chacha20poly1305.NonceSizeX:]
	plain, err := k.aead.Open(make([]byte, 0, len(box)), nonce, box, associated(k.id, p))
	if err != nil {
		return nil, ErrRefused
	}
	return plain, nil
}

// KeyOf returns the ID of the key a value was sealed under. It is proven only when the
// value is opened.
func KeyOf(sealed []byte) (ID, error) {
	if len(sealed) < Overhead || sealed[0] != format {
		return ID{}, ErrMalformed
	}
	return ID(sealed[1 : 1+IDSize]), nil
}

// associated encodes key ID and place so that different inputs never result in the same
// bytes: every part is preceded by its length.
func associated(id ID, p Place) []byte {
	b := make([]byte, 0, 256)
	b = append(b, "e2ee-proxy sealed value"...)
	b = append(b, format)
	b = append(b, id[:]...)
	for _, s := range [...]string{p.Database, p.Table, p.Account, p.Column} {
		b = appendPart(b, s)
	}
	b = binary.AppendUvarint(b, uint64(len(p.Row)))
	for _, s := range p.Row {
		b = appendPart(b, s)
	}
	return b
}

func appendPart(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
