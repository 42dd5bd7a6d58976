package olm

import (
	"crypto/ecdh"
	"crypto/rand"

	"maunium.net/go/mautrix/crypto/goolm/crypto"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/secret"
)

// Three of the five multiplications of a new session need nothing of the one-time key. They are done
// while that is asked for, when the processors have nothing else to do.

// beginning is what a new session with a device has before its one-time key is known.
type beginning struct {
	base      *ecdh.PrivateKey
	ratchet   crypto.Curve25519KeyPair
	agreement secret.Bytes // of the base key with the device's
}

// prepared are beginnings by the device's key. Each is used once. A device and its copies share
// them.
type prepared struct {
	mu  locks.Mutex
	all map[id.Curve25519]*beginning
}

// Prepare begins sessions with devices of these keys, until done says that it is enough. What was
// prepared before and not used is dropped.
func (a *Account) Prepare(keys []id.Curve25519, done func() bool) {
	a.prepared.reset()
	for _, key := range keys {
		if done() {
			return
		}
		theirs, err := publicX25519(key)
		if err != nil {
			continue // whoever makes the session gets the error
		}
		if b, err := begin(theirs); err == nil {
			a.prepared.put(key, b)
		}
	}
}

// DropPrepared drops what was prepared and not used.
func (a *Account) DropPrepared() { a.prepared.reset() }

func (p *prepared) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.all {
		b.agreement.Wipe()
	}
	p.all = nil
}

func (p *prepared) put(key id.Curve25519, b *beginning) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = make(map[id.Curve25519]*beginning)
	}
	p.all[key] = b
}

// take returns a beginning, which nobody else gets; nil if there is none.
func (p *prepared) take(key id.Curve25519) *beginning {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.all[key]
	delete(p.all, key)
	return b
}

// begin makes the keys of a new session with a device.
func begin(theirs *ecdh.PublicKey) (*beginning, error) {
	base, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	ratchet, err := newRatchetKey()
	if err != nil {
		return nil, err
	}
	agreement, err := base.ECDH(theirs) // refuses points that make the secret all zero
	if err != nil {
		return nil, err
	}
	return &beginning{base: base, ratchet: ratchet, agreement: agreement}, nil
}
