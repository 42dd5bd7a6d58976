package olm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// letter is all that one Olm message follows from, beside the [Frame]: the same letter is the
// same bytes, whenever it is written. The ratchet has moved on already when there is one.
type letter struct {
	ed25519    id.Ed25519
	curve25519 id.Curve25519
	// names are the keys that name the session, in front of the message while the other side has
	// not answered yet; then begins is set.
	begins  bool
	names   [namesSize]byte
	ratchet [keySize]byte
	index   uint32
	key     [keySize]byte
}

// newLetter takes the next message key of a session from its regular pickle, and returns the
// pickle from which it is gone.
func newLetter(pickle []byte, to *trustcache.Device) (*letter, []byte, error) {
	if !isRegular(pickle) {
		return nil, nil, errPickle
	}
	pickle, err := withChain(pickle)
	if err != nil {
		return nil, nil, fmt.Errorf("encrypt for a device: %w", err)
	}
	at, _ := positionOf(pickle)
	key, after := at.next()
	l := &letter{
		ed25519: to.Ed25519, curve25519: to.Curve25519, begins: pickle[pickleReceived] == 0,
		ratchet: at.ratchet, index: at.index, key: key,
	}
	if l.begins {
		copy(l.names[:], pickle[pickleNames:])
	}
	return l, after.moved(pickle), nil
}

const (
	version = 3
	macSize = 8
	// slack is more than the length of a message is beyond its ciphertext, and of its JSON
	// beyond the message.
	slack = 256
)

// writer writes letters of one frame, with memory of its own that they share.
type writer struct {
	frame *Frame
	inner []byte // the message
	outer []byte // the same with the names of its session
}

// size returns at least how long a letter becomes.
func (w *writer) size() int { return (len(w.frame.head)+3*slack)*4/3 + slack }

// add appends the content of the m.room.encrypted event for a device.
func (w *writer) add(out []byte, user id.UserID, l *letter) []byte {
	message := w.seal(user, l)
	kind := id.OlmMsgTypeMsg
	if l.begins {
		kind, message = id.OlmMsgTypePreKey, w.begin(l, message)
	}
	// Written without an encoder, because there may be a thousand of them.
	out = append(out, `{"algorithm":"`+wire.AlgorithmOlm+`","ciphertext":{`...)
	out = strictjson.AppendQuote(out, l.curve25519.String())
	out = strconv.AppendInt(append(out, `:{"type":`...), int64(kind), 10)
	out = append(out, `,"body":"`...)
	out = base64.RawStdEncoding.AppendEncode(out, message)
	out = append(out, `"}},"sender_key":`...)
	return append(strictjson.AppendQuote(out, w.frame.senderKey), '}')
}

// seal returns the encrypted plaintext of requirement 6.4, which is valid until the next call.
func (w *writer) seal(user id.UserID, l *letter) []byte {
	plain := w.frame.plaintext(w.outer[:0], user, l.ed25519)
	w.outer = plain
	var keys [80]byte
	var zero [keySize]byte
	extracted := hmacOf(&zero, l.key[:])
	expand(&extracted, "OLM_KEYS", keys[:])
	block, _ := aes.NewCipher(keys[:32]) // never an error for 32 bytes
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	out := append(w.inner[:0], version, 0x0A, keySize)
	out = append(out, l.ratchet[:]...)
	out = binary.AppendUvarint(append(out, 0x10), uint64(l.index))
	out = binary.AppendUvarint(append(out, 0x22), uint64(len(plain)+pad))
	text := len(out)
	out = append(out, plain...)
	for range pad {
		out = append(out, byte(pad))
	}
	cipher.NewCBCEncrypter(block, keys[64:]).CryptBlocks(out[text:], out[text:])
	mac := macOf((*[keySize]byte)(keys[32:]), out)
	w.inner = append(out, mac[:macSize]...)
	return w.inner
}

// begin returns a message with the names of its session in front, which is valid until the
// next call.
func (w *writer) begin(l *letter, message []byte) []byte {
	identity, base, once := l.names[:keySize], l.names[keySize:2*keySize], l.names[2*keySize:]
	out := append(w.outer[:0], version, 0x0A, keySize)
	out = append(append(out, once...), 0x1A, keySize)
	out = append(append(out, identity...), 0x12, keySize)
	out = append(append(out, base...), 0x22)
	w.outer = append(binary.AppendUvarint(out, uint64(len(message))), message...)
	return w.outer
}

// macOf is HMAC-SHA-256 of a text of any length.
func macOf(key *[keySize]byte, text []byte) [sha256.Size]byte {
	var pad [sha256.BlockSize]byte
	for i := range pad {
		pad[i] = 0x36
	}
	for i, b := range key {
		pad[i] ^= b
	}
	h := sha256.New()
	_, _ = h.Write(pad[:]) // a hash never returns an error
	_, _ = h.Write(text)
	var outer [sha256.BlockSize + sha256.Size]byte
	for i, b := range pad {
		outer[i] = b ^ 0x36 ^ 0x5c
	}
	h.Sum(outer[:sha256.BlockSize])
	return sha256.Sum256(outer[:])
}
