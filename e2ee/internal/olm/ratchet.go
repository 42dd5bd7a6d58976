package olm

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"

	"e2ee-proxy/internal/secret"
)

// A pickle of an Olm session, as goolm writes it, has the chain for sending at a fixed place.
// A message needs nothing else of the session, so that a thousand of them are encrypted
// without decoding, and encoding again, a thousand sessions.
const (
	pickleVersion = 1
	// Where things stand in a pickle. What comes before pickleChains are: its version, whether
	// the session has received anything, three keys that name the session, the root key.
	pickleReceived = 4
	pickleNames    = 5
	pickleRoot     = pickleNames + namesSize
	pickleChains   = pickleRoot + keySize
	// A chain for sending: its public and private ratchet key, the chain key, the index.
	chainPublic  = pickleChains + 4
	chainPrivate = chainPublic + keySize
	chainKey     = chainPrivate + keySize
	chainIndex   = chainKey + keySize
	chainEnd     = chainIndex + 4

	keySize      = 32
	namesSize    = 3 * keySize
	receiverSize = 2*keySize + 4 // its ratchet key, the chain key, the index
	skippedSize  = 2*keySize + 4
)

// errPickle means that a pickle is not one that goolm writes.
var errPickle = errors.New("not an Olm session as it is stored")

// isRegular reports whether a pickle is as goolm writes it, so that it can be decoded. One of
// an older form becomes one when it is decoded and encoded.
func isRegular(pickle []byte) bool {
	if len(pickle) < pickleChains+4 || binary.BigEndian.Uint32(pickle) != pickleVersion || pickle[pickleReceived] > 1 {
		return false
	}
	at := pickleChains
	count := func(size, most int) bool {
		if at+4 > len(pickle) {
			return false
		}
		n := int(binary.BigEndian.Uint32(pickle[at:]))
		at += 4 + n*size
		return n <= most && at <= len(pickle)
	}
	return count(chainEnd-chainPublic, 1) && count(receiverSize, 5) && count(skippedSize, 40) && at == len(pickle)
}

// position is how far the chain for sending of a session is.
type position struct {
	ratchet [keySize]byte // the public ratchet key, which names the chain
	index   uint32
	key     [keySize]byte // the chain key at index
}

// positionOf returns the position in a regular pickle; ok is false if there is no chain yet.
func positionOf(pickle []byte) (p position, ok bool) {
	if binary.BigEndian.Uint32(pickle[pickleChains:]) == 0 {
		return position{}, false
	}
	p.ratchet = [keySize]byte(pickle[chainPublic:])
	p.index = binary.BigEndian.Uint32(pickle[chainIndex:])
	p.key = [keySize]byte(pickle[chainKey:])
	return p, true
}

// moved returns a pickle with its chain at a position further on.
func (p *position) moved(pickle []byte) secret.Bytes {
	next := append(make(secret.Bytes, 0, len(pickle)), pickle...)
	copy(next[chainKey:], p.key[:])
	binary.BigEndian.PutUint32(next[chainIndex:], p.index)
	return next
}

// next returns the key for one message, and the position after it (Olm specification,
// "Advancing the chain key").
func (p *position) next() (messageKey [keySize]byte, after position) {
	after = position{ratchet: p.ratchet, index: p.index + 1}
	messageKey = hmacOf(&p.key, []byte{1})
	after.key = hmacOf(&p.key, []byte{2})
	return messageKey, after
}

// withChain returns a regular pickle that has a chain for sending, the same if it has one
// already. A session that has received under a new ratchet key begins another chain (Olm
// specification, "Advancing the root key").
func withChain(pickle []byte) ([]byte, error) {
	if binary.BigEndian.Uint32(pickle[pickleChains:]) == 1 {
		return pickle, nil
	}
	receivers := pickle[pickleChains+4:]
	if binary.BigEndian.Uint32(receivers) == 0 {
		return nil, errPickle
	}
	theirs, err := ecdh.X25519().NewPublicKey(receivers[4 : 4+keySize])
	if err != nil {
		return nil, err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shared, err := own.ECDH(theirs)
	if err != nil {
		return nil, err
	}
	defer secret.Bytes(shared).Wipe()
	extracted := hmacOf((*[keySize]byte)(pickle[pickleRoot:]), shared)
	var derived [2 * keySize]byte
	expand(&extracted, "OLM_RATCHET", derived[:])
	out := make([]byte, 0, len(pickle)+chainEnd-chainPublic)
	out = append(out, pickle[:pickleRoot]...)
	out = append(out, derived[:keySize]...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = append(append(out, own.PublicKey().Bytes()...), own.Bytes()...)
	out = binary.BigEndian.AppendUint32(append(out, derived[keySize:]...), 0)
	return append(out, receivers...), nil
}

// hmacOf is HMAC-SHA-256 of a text of at most 64 bytes, which takes no memory.
func hmacOf(key *[keySize]byte, text []byte) [sha256.Size]byte {
	var inner [2 * sha256.BlockSize]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	before, after := inner[:sha256.BlockSize], outer[:sha256.BlockSize]
	for i := range before {
		before[i] = 0x36
	}
	for i := range after {
		after[i] = 0x5c
	}
	subtle.XORBytes(before, before, key[:])
	subtle.XORBytes(after, after, key[:])
	n := copy(inner[sha256.BlockSize:], text)
	sum := sha256.Sum256(inner[:sha256.BlockSize+n])
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

// expand is the second half of HKDF-SHA-256.
func expand(extracted *[keySize]byte, info string, into []byte) {
	var text [2 * sha256.BlockSize / 2]byte // what came before, the info, a number
	var last [sha256.Size]byte
	for n := byte(1); len(into) > 0; n++ {
		t := text[:0]
		if n > 1 {
			t = append(t, last[:]...)
		}
		t = append(append(t, info...), n)
		last = hmacOf(extracted, t)
		into = into[copy(into, last[:]):]
	}
}
