package trustcache

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"
)

// ErrBadKey means that a public key must not be used: wrong length, not canonical, or of
// small order (attacks A17, A19).
var ErrBadKey = errors.New("unusable public key")

const keySize = 32

// decodeBase64 accepts padded and unpadded standard base64 (Appendices, Unpadded Base64)
// and refuses every text that is not the canonical encoding of its bytes.
func decodeBase64(s string) ([]byte, error) {
	bare := strings.TrimRight(s, "=")
	if pad := len(s) - len(bare); pad > 2 || (pad > 0 && len(s)%4 != 0) {
		return nil, errors.New("decode base64: wrong padding")
	}
	if strings.ContainsAny(s, "\r\n") { // the decoder skips them
		return nil, errors.New("decode base64: line break")
	}
	b, err := base64.RawStdEncoding.Strict().DecodeString(bare)
	if err != nil {
		return nil, fmt.Errorf("decode base64: %w", err)
	}
	return b, nil
}

// parseEd25519 reads a public signing key and returns it in unpadded base64.
func parseEd25519(s string) (id.Ed25519, error) {
	y, err := decodePublic(s)
	if err != nil {
		return "", fmt.Errorf("ed25519: %w", err)
	}
	y[keySize-1] &= 0x7f // the sign of x
	if !belowPrime(y) || matchesAny(y, smallOrderEd25519()) {
		return "", fmt.Errorf("ed25519: %w", ErrBadKey)
	}
	return id.Ed25519(strings.TrimRight(s, "=")), nil
}

// parseCurve25519 reads a public key for key agreement and returns it in unpadded base64. A
// key that is not canonical is refused: one key would have two names (attack A16).
func parseCurve25519(s string) (id.Curve25519, error) {
	u, err := decodePublic(s)
	if err != nil {
		return "", fmt.Errorf("curve25519: %w", err)
	}
	if !belowPrime(u) || matchesAny(u, smallOrderCurve25519()) {
		return "", fmt.Errorf("curve25519: %w", ErrBadKey)
	}
	return id.Curve25519(strings.TrimRight(s, "=")), nil
}

// OneSpelling reports whether a Curve25519 key may be used and is written canonically, in
// unpadded base64. Other texts can stand for the same key in key agreement.
func OneSpelling(key id.Curve25519) bool {
	same, err := parseCurve25519(key.String())
	return err == nil && same == key
}

func decodePublic(s string) (*[keySize]byte, error) {
	if len(s) > 64 {
		return nil, fmt.Errorf("%w: too long", ErrBadKey)
	}
	b, err := decodeBase64(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	if len(b) != keySize {
		return nil, fmt.Errorf("%w: %d bytes", ErrBadKey, len(b))
	}
	return (*[keySize]byte)(b), nil
}

// belowPrime reports whether a little-endian number is less than 2^255-19.
func belowPrime(n *[keySize]byte) bool {
	if n[keySize-1] != 0x7f {
		return n[keySize-1] < 0x7f
	}
	for i := keySize - 2; i > 0; i-- {
		if n[i] != 0xff {
			return true
		}
	}
	return n[0] < 0xed
}

func matchesAny(n *[keySize]byte, list [5][keySize]byte) bool {
	for i := range list {
		if *n == list[i] {
			return true
		}
	}
	return false
}

// minusOne returns 2^255-20.
func minusOne() [keySize]byte {
	n := [keySize]byte{0: 0xec, keySize - 1: 0x7f}
	for i := 1; i < keySize-1; i++ {
		n[i] = 0xff
	}
	return n
}

// smallOrderEd25519 returns the y coordinates of the eight points whose order divides 8.
func smallOrderEd25519() [5][keySize]byte {
	return [5][keySize]byte{
		{},
		{1},
		minusOne(),
		{
			0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
			0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
		},
		{
			0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
			0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
		},
	}
}

// smallOrderCurve25519 returns the u coordinates below the prime for which every key
// agreement results in zero (RFC 7748, section 6.1).
func smallOrderCurve25519() [5][keySize]byte {
	return [5][keySize]byte{
		{},
		{1},
		minusOne(),
		{
			0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
		},
		{
			0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
			0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
		},
	}
}
