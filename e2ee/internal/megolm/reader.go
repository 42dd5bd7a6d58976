package megolm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"

	ratchet "maunium.net/go/mautrix/crypto/goolm/megolm"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/olm"

	"e2ee-proxy/internal/signkey"
)

// Reader decrypts the messages of a room key. It reads what goolm's session reads, and nothing
// else; but the key by which the messages are signed is decoded and checked once, not for each of
// them, and nothing is copied. It must be used by one at a time.
type Reader struct{ First, Latest ratchet.Ratchet }

// NewReader returns a reader of a session.
func NewReader(s *session.MegolmInboundSession) Reader {
	return Reader{First: s.InitialRatchet, Latest: s.Ratchet}
}

// Message is a message whose signature is to be checked before it is opened.
type Message struct {
	index      uint32
	ciphertext []byte
	signed     []byte // all but the signature
	signature  []byte
}

// Of a message (Olm specification, Megolm, Message format).
const (
	messageVersion   = 3
	tagIndex         = 0x08
	tagCiphertext    = 0x12
	macLength        = 8
	signatureLength  = 64
	partLength       = ratchet.RatchetPartLength
	partsOfRatchet   = ratchet.RatchetParts
	kindVarint       = 0
	kindBytes        = 2
	kindMask         = 7
	halfOfAllIndices = 1 << 31
)

var errMessage = errors.New("the message cannot be read")

// ParseMessage reads the form of a message.
func ParseMessage(text string) (m Message, err error) {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return m, errMessage
	}
	index, ciphertext, ok := parseMessage(raw)
	if !ok {
		return m, errMessage
	}
	end := len(raw) - signatureLength
	return Message{index, ciphertext, raw[:end], raw[end:]}, nil
}

// Check is the check of its signature by a session's key.
func (m *Message) Check(by signkey.Verifier) signkey.Check {
	return signkey.Check{By: by, Message: m.signed, Signature: m.signature}
}

// Open decrypts a message whose signature is valid, which can be done once. It returns
// [olm.ErrUnknownMessageIndex] for one of before the key begins.
func (r *Reader) Open(m *Message) (plain []byte, index uint32, err error) {
	at, err := r.at(m.index)
	if err != nil {
		return nil, 0, err
	}
	end := len(m.signed) - macLength
	plain, err = open(at, m.ciphertext, m.signed[:end], m.signed[end:])
	return plain, m.index, err
}

// parseMessage returns the parts of a message, whose signature follows. Unknown parts are
// skipped, and of repeated ones the last counts.
func parseMessage(raw []byte) (index uint32, ciphertext []byte, ok bool) {
	if len(raw) <= macLength+signatureLength || raw[0] != messageVersion {
		return 0, nil, false
	}
	var hasIndex, hasCiphertext bool
	for rest := raw[1 : len(raw)-macLength-signatureLength]; len(rest) > 0; {
		tag, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0, nil, false
		}
		value, m := binary.Uvarint(rest[n:])
		if m <= 0 {
			return 0, nil, false
		}
		rest = rest[n+m:]
		switch {
		case tag&kindMask == kindVarint && tag == tagIndex:
			if value > math.MaxUint32 {
				return 0, nil, false
			}
			index, hasIndex = uint32(value), true
		case tag&kindMask == kindVarint:
		case tag&kindMask == kindBytes && value <= uint64(len(rest)):
			if tag == tagCiphertext {
				ciphertext, hasCiphertext = rest[:value], true
			}
			rest = rest[value:]
		default:
			return 0, nil, false
		}
	}
	return index, ciphertext, hasIndex && hasCiphertext
}

// at returns the ratchet at an index. The latest one moves on, also if what it is for cannot be
// decrypted then: it was signed.
func (r *Reader) at(index uint32) (*ratchet.Ratchet, error) {
	switch {
	case index-r.Latest.Counter < halfOfAllIndices:
		moveTo(&r.Latest, index)
		return &r.Latest, nil
	case index-r.First.Counter >= halfOfAllIndices:
		return nil, olm.ErrUnknownMessageIndex
	}
	from := r.First
	moveTo(&from, index)
	return &from, nil
}

// moveTo moves a ratchet to an index (Olm specification, Megolm, Ratchet): of its four parts the
// first changes every 2^24 messages, the last with every one, and each begins anew from
// the one before it.
func moveTo(r *ratchet.Ratchet, to uint32) {
	for part := range partsOfRatchet {
		shift := uint32((partsOfRatchet - 1 - part) * 8)
		steps := (to>>shift - r.Counter>>shift) & 0xff
		if steps == 0 {
			if to >= r.Counter {
				continue
			}
			steps = 0x100 // the counter wraps around
		}
		for ; steps > 1; steps-- {
			rehash(r, part, part)
		}
		for next := partsOfRatchet - 1; next >= part; next-- {
			rehash(r, part, next)
		}
		r.Counter = to &^ (1<<shift - 1)
	}
}

// rehash sets a part of the ratchet to the hash of another.
func rehash(r *ratchet.Ratchet, from, to int) {
	sum := hmacSHA256(r.Data[from*partLength:(from+1)*partLength], []byte{byte(to)})
	copy(r.Data[to*partLength:], sum[:])
}

// messageKeys are those of one message.
type messageKeys struct {
	aes, mac [sha256.Size]byte
	iv       [aes.BlockSize]byte
}

// keysAt derives them from a ratchet, by HKDF-SHA-256.
func keysAt(r *ratchet.Ratchet) (k messageKeys) {
	var noSalt [sha256.Size]byte
	secret := hmacSHA256(noSalt[:], r.Data[:])
	info := []byte("MEGOLM_KEYS")
	k.aes = hmacSHA256(secret[:], info, []byte{1})
	k.mac = hmacSHA256(secret[:], k.aes[:], info, []byte{2})
	iv := hmacSHA256(secret[:], k.mac[:], info, []byte{3})
	copy(k.iv[:], iv[:])
	return k
}

// open decrypts and authenticates with the keys of a ratchet (Olm specification, Megolm,
// Message encryption): AES-256 in CBC mode with PKCS #7, HMAC-SHA-256.
func open(at *ratchet.Ratchet, ciphertext, authenticated, mac []byte) ([]byte, error) {
	keys := keysAt(at)
	sum := hmacSHA256(keys.mac[:], authenticated)
	if subtle.ConstantTimeCompare(sum[:macLength], mac) != 1 {
		return nil, errMessage
	}
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, errMessage
	}
	block, err := aes.NewCipher(keys.aes[:])
	if err != nil {
		return nil, errMessage
	}
	cipher.NewCBCDecrypter(block, keys.iv[:]).CryptBlocks(ciphertext, ciphertext)
	padding := int(ciphertext[len(ciphertext)-1])
	if padding == 0 || padding > len(ciphertext) {
		return nil, errMessage
	}
	plain := ciphertext[:len(ciphertext)-padding]
	for _, b := range ciphertext[len(plain):] {
		if int(b) != padding {
			return nil, errMessage
		}
	}
	return plain, nil
}

// hmacSHA256 is HMAC with a key that is no longer than a block. crypto/hmac takes four
// allocations for each of the nine that a message takes.
func hmacSHA256(key []byte, parts ...[]byte) (sum [sha256.Size]byte) {
	var inner, outer [sha256.BlockSize]byte
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	h := sha256.New()
	_, _ = h.Write(inner[:]) // a hash never returns an error
	for _, part := range parts {
		_, _ = h.Write(part)
	}
	h.Sum(sum[:0])
	h.Reset()
	_, _ = h.Write(outer[:])
	_, _ = h.Write(sum[:])
	h.Sum(sum[:0])
	return sum
}
