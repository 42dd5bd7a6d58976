package signkey

import (
	"bytes"
	"crypto/sha512"
	"errors"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

const (
	keySize       = 32
	signatureSize = 64
)

// Key is a public key that was decoded and checked.
type Key struct {
	raw   [keySize]byte
	minus edwards25519.Point // its negative
}

var errKey = errors.New("not an Ed25519 key to check signatures with")

// NewKey decodes a key. One that another encoding is for, and one of small order, under which
// anybody can sign, are refused: crypto/ed25519 takes both.
func NewKey(raw []byte) (*Key, error) {
	if len(raw) != keySize {
		return nil, errKey
	}
	point, err := new(edwards25519.Point).SetBytes(raw)
	if err != nil || !isReduced(raw) {
		return nil, errKey
	}
	// Points with x = 0, whose sign has two encodings, are of small order.
	if new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return nil, errKey
	}
	k := &Key{raw: [keySize]byte(raw)}
	k.minus.Negate(point)
	return k, nil
}

// isReduced reports whether the number y that a point is encoded with is smaller than the field's
// order, as it must be.
func isReduced(raw []byte) bool {
	y := bytes.Clone(raw)
	y[keySize-1] &= 0x7f // the sign of x
	e, err := new(field.Element).SetBytes(y)
	return err == nil && bytes.Equal(e.Bytes(), y)
}

// Is reports whether it is the key with this encoding.
func (k *Key) Is(raw []byte) bool { return string(k.raw[:]) == string(raw) }

// Verify reports whether a signature is valid.
func (k *Key) Verify(message, signature []byte) bool {
	var challenge, s edwards25519.Scalar
	if !k.read(message, signature, &challenge, &s) {
		return false
	}
	return string(k.combine(&challenge, &s).Bytes()) == string(signature[:keySize])
}

// combine returns [s]B - [challenge]A, which is R of a valid signature.
func (k *Key) combine(challenge, s *edwards25519.Scalar) *edwards25519.Point {
	return new(edwards25519.Point).VarTimeDoubleScalarBaseMult(challenge, &k.minus, s)
}

// read computes the scalars of a signature. It returns false if it is none, or its second half
// is no canonical scalar (RFC 8032, section 5.1.7).
func (k *Key) read(message, signature []byte, challenge, s *edwards25519.Scalar) bool {
	if len(signature) != signatureSize {
		return false
	}
	if _, err := s.SetCanonicalBytes(signature[keySize:]); err != nil {
		return false
	}
	h := sha512.New()
	_, _ = h.Write(signature[:keySize]) // a hash never returns an error
	_, _ = h.Write(k.raw[:])
	_, _ = h.Write(message)
	var sum [sha512.Size]byte
	_, err := challenge.SetUniformBytes(h.Sum(sum[:0]))
	return err == nil
}
