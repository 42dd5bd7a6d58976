package megolm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"

	"filippo.io/edwards25519"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/olm"
)

// Writer encrypts the messages of a session of ours. It writes what goolm's session writes, to the
// byte; but the public half of the key that signs them is computed once, not for each of
// them. The zero value writes nothing.
type Writer struct{ public [publicLength]byte }

const (
	publicLength  = 32
	privateLength = 64 // the scalar, and what the numbers that are used once are made of
)

var errSigningKey = errors.New("the key that signs has another public half")

// NewWriter returns a writer of a session. Signatures by one private key that name different public
// ones give the private key away, so the public half is computed here; a session that says
// another is refused.
func NewWriter(s *session.MegolmOutboundSession) (w Writer, err error) {
	scalar, err := scalarOf(s)
	if err != nil {
		return Writer{}, err
	}
	copy(w.public[:], new(edwards25519.Point).ScalarBaseMult(scalar).Bytes())
	if string(w.public[:]) != string(s.SigningKey.PublicKey) {
		return Writer{}, errSigningKey
	}
	return w, nil
}

// scalarOf returns the private key as a number.
func scalarOf(s *session.MegolmOutboundSession) (*edwards25519.Scalar, error) {
	if len(s.SigningKey.PrivateKey) != privateLength {
		return nil, errSigningKey
	}
	scalar, err := new(edwards25519.Scalar).SetBytesWithClamping(s.SigningKey.PrivateKey[:privateLength/2])
	if err != nil {
		return nil, errSigningKey
	}
	return scalar, nil
}

// Encrypt encrypts a message (Olm specification, Megolm, Message encryption), and moves the session's
// ratchet to the next. The result is in base64.
func (w *Writer) Encrypt(s *session.MegolmOutboundSession, plain []byte) ([]byte, error) {
	if len(plain) == 0 {
		return nil, olm.ErrEmptyInput
	}
	keys := keysAt(&s.Ratchet)
	block, err := aes.NewCipher(keys.aes[:])
	if err != nil {
		return nil, errMessage
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	raw := make([]byte, 0, 1+2*(1+binary.MaxVarintLen64)+len(plain)+padding+macLength+signatureLength)
	raw = binary.AppendUvarint(append(raw, messageVersion, tagIndex), uint64(s.Ratchet.Counter))
	raw = binary.AppendUvarint(append(raw, tagCiphertext), uint64(len(plain)+padding))
	begin := len(raw)
	raw = append(raw, plain...)
	for range padding {
		raw = append(raw, byte(padding))
	}
	cipher.NewCBCEncrypter(block, keys.iv[:]).CryptBlocks(raw[begin:], raw[begin:])
	mac := hmacSHA256(keys.mac[:], raw)
	raw = append(raw, mac[:macLength]...)
	if raw, err = w.sign(s, raw); err != nil {
		return nil, err
	}
	moveTo(&s.Ratchet, s.Ratchet.Counter+1)
	return base64.RawStdEncoding.AppendEncode(nil, raw), nil
}

// sign appends the signature of a message to it (RFC 8032, section 5.1.6).
func (w *Writer) sign(s *session.MegolmOutboundSession, message []byte) ([]byte, error) {
	key, err := scalarOf(s)
	if err != nil {
		return nil, err
	}
	if string(w.public[:]) != string(s.SigningKey.PublicKey) {
		return nil, errSigningKey
	}
	var once, challenge edwards25519.Scalar
	if err := hashTo(&once, s.SigningKey.PrivateKey[privateLength/2:], message); err != nil {
		return nil, err
	}
	point := new(edwards25519.Point).ScalarBaseMult(&once).Bytes()
	if err := hashTo(&challenge, point, w.public[:], message); err != nil {
		return nil, err
	}
	number := challenge.MultiplyAdd(&challenge, key, &once).Bytes()
	return append(append(message, point...), number...), nil
}

// hashTo sets a scalar to the SHA-512 of what is given.
func hashTo(scalar *edwards25519.Scalar, parts ...[]byte) error {
	h := sha512.New()
	for _, part := range parts {
		_, _ = h.Write(part) // a hash never returns an error
	}
	var sum [sha512.Size]byte
	_, err := scalar.SetUniformBytes(h.Sum(sum[:0]))
	return err //nolint:wrapcheck // 64 bytes are never refused
}
