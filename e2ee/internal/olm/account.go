package olm

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"filippo.io/edwards25519"
	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/crypto"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// Account is the private half of a device's keys. It is guarded by its Device.
type Account struct {
	goolm.Account
	Ed25519    id.Ed25519
	Curve25519 id.Curve25519
	// agreement returns the identity key, ready for key agreements.
	agreement func() (*ecdh.PrivateKey, error)
	prepared  *prepared // has its own lock
}

// NewAccount makes the private keys of a new device.
func NewAccount() (*Account, error) {
	acc, err := goolm.NewAccount()
	if err != nil {
		return nil, fmt.Errorf("make device keys: %w", err)
	}
	return wrapAccount(acc)
}

func wrapAccount(acc *goolm.Account) (*Account, error) {
	ed, curve, err := acc.IdentityKeys()
	if err != nil {
		return nil, fmt.Errorf("read device keys: %w", err)
	}
	a := &Account{Account: *acc, Ed25519: ed, Curve25519: curve, prepared: &prepared{}}
	a.agreement = sync.OnceValues(func() (*ecdh.PrivateKey, error) {
		return ecdh.X25519().NewPrivateKey(a.IdKeys.Curve25519.PrivateKey)
	})
	return a, nil
}

// LoadAccount decodes the result of [Account.Pickled].
func LoadAccount(pickle secret.Bytes) (*Account, error) {
	acc := &goolm.Account{}
	if err := acc.UnpickleLibOlm(pickle.Reveal()); err != nil {
		return nil, fmt.Errorf("unpickle device keys: %w", err)
	}
	return wrapAccount(acc)
}

// Clone returns a copy that can be changed while this one stays as it is.
func (a *Account) Clone() *Account {
	out := *a
	out.OTKeys = slices.Clone(a.OTKeys)
	return &out
}

// Pickled encodes the account for the store.
func (a *Account) Pickled() secret.Bytes { return a.PickleLibOlm() }

// SignJSON signs an object as the spec's appendix says and adds the signature. Unknown
// members are kept.
func (a *Account) SignJSON(obj json.RawMessage, user id.UserID, device id.DeviceID) (json.RawMessage, error) {
	msg, err := wire.Signable(obj)
	if err != nil {
		return nil, err
	}
	sig, err := a.Sign(msg)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return wire.AddSignature(obj, user, "ed25519:"+device.String(), string(sig))
}

// DeviceKeys returns the signed object for /keys/upload (requirements 2.1 to 2.5).
func (a *Account) DeviceKeys(user id.UserID, device id.DeviceID) (json.RawMessage, error) {
	obj, err := json.Marshal(map[string]any{
		"user_id":    user,
		"device_id":  device,
		"algorithms": []string{wire.AlgorithmOlm, wire.AlgorithmMegolm},
		"keys": map[string]string{
			"ed25519:" + device.String():    a.Ed25519.String(),
			"curve25519:" + device.String(): a.Curve25519.String(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode device keys: %w", err)
	}
	return a.SignJSON(obj, user, device)
}

// Unpublished returns the signed one-time keys not yet known to be on the homeserver, by
// key ID with its algorithm.
func (a *Account) Unpublished(user id.UserID, device id.DeviceID) (map[string]json.RawMessage, error) {
	out := make(map[string]json.RawMessage)
	for i := range a.OTKeys {
		if key := &a.OTKeys[i]; !key.Published {
			signed, err := a.signedKey(key, user, device, false)
			if err != nil {
				return nil, err
			}
			out[wire.AlgorithmSigned+":"+key.KeyIDEncoded()] = signed
		}
	}
	return out, nil
}

// UnpublishedFallback returns the current fallback key, signed, if it is not published
// (requirement 3.2: it says fallback: true).
func (a *Account) UnpublishedFallback(user id.UserID, device id.DeviceID) (map[string]json.RawMessage, error) {
	if a.NumFallbackKeys == 0 || a.CurrentFallbackKey.Published {
		return map[string]json.RawMessage{}, nil
	}
	signed, err := a.signedKey(&a.CurrentFallbackKey, user, device, true)
	if err != nil {
		return nil, err
	}
	return map[string]json.RawMessage{wire.AlgorithmSigned + ":" + a.CurrentFallbackKey.KeyIDEncoded(): signed}, nil
}

// signedKey writes the members in alphabetical order: Synapse (1.163.2) takes the same fallback
// key for another one when they come in any other, and forgets that it was given out.
func (a *Account) signedKey(key *crypto.OneTimeKey, user id.UserID, device id.DeviceID, fallback bool) (json.RawMessage, error) {
	var obj strictjson.Object
	if fallback {
		obj = obj.Set("fallback", json.RawMessage("true"))
	}
	obj = obj.Set("key", strictjson.Quote(key.Key.PublicKey.B64Encoded().String()))
	return a.SignJSON(obj.Encode(), user, device)
}

// MarkPublished marks exactly the uploaded keys as published: others may have been made
// meanwhile.
func (a *Account) MarkPublished(oneTime, fallback map[string]json.RawMessage) {
	ids := slices.Collect(maps.Keys(oneTime))
	for i := range a.OTKeys {
		if slices.Contains(ids, wire.AlgorithmSigned+":"+a.OTKeys[i].KeyIDEncoded()) {
			a.OTKeys[i].Published = true
		}
	}
	if _, ok := fallback[wire.AlgorithmSigned+":"+a.CurrentFallbackKey.KeyIDEncoded()]; ok && a.NumFallbackKeys > 0 {
		a.CurrentFallbackKey.Published = true
	}
}

// RemoveOneTimeKey removes the one-time key that a session used. The others keep their
// order, so that the oldest are dropped when there are too many. Fallback keys stay.
func (a *Account) RemoveOneTimeKey(used crypto.Curve25519PublicKey) {
	a.OTKeys = slices.DeleteFunc(a.OTKeys, func(k crypto.OneTimeKey) bool { return k.Key.PublicKey.Equal(used) })
}

// UsedFallback reports whether a session was made with the current fallback key.
func (a *Account) UsedFallback(used crypto.Curve25519PublicKey) bool {
	return a.NumFallbackKeys > 0 && a.CurrentFallbackKey.Key.PublicKey.Equal(used)
}

// newInbound makes a session from a pre-key message. It changes nothing in the account (requirement 3.7).
func (a *Account) newInbound(theirKey id.Curve25519, body string) (*session.OlmSession, error) {
	s, err := a.NewInboundSessionFrom(&theirKey, body)
	if err != nil {
		return nil, fmt.Errorf("new inbound Olm session: %w", err)
	}
	olm, ok := s.(*session.OlmSession)
	if !ok {
		return nil, fmt.Errorf("new inbound Olm session: %w", strictjson.ErrMalformed)
	}
	return olm, nil
}

// NewOutbound makes a session with a device from a claimed key. It is goolm's function with
// crypto/ecdh, whose keys remember their public half: goolm computes it for every key
// agreement, which doubles the cost of sharing a room key with many devices.
func (a *Account) NewOutbound(theirKey, oneTimeKey id.Curve25519) (*session.OlmSession, error) {
	s, err := a.agree(theirKey, oneTimeKey)
	if err != nil {
		return nil, fmt.Errorf("new outbound Olm session: %w", err)
	}
	return s, nil
}

// agree returns a session by the triple Diffie-Hellman of the Olm specification, from the
// side that begins.
func (a *Account) agree(theirKey, oneTimeKey id.Curve25519) (*session.OlmSession, error) {
	theirs, err := publicX25519(theirKey)
	if err != nil {
		return nil, err
	}
	once, err := publicX25519(oneTimeKey)
	if err != nil {
		return nil, err
	}
	identity, err := a.agreement()
	if err != nil {
		return nil, err
	}
	begun := a.prepared.take(theirKey)
	if begun == nil {
		if begun, err = begin(theirs); err != nil {
			return nil, err
		}
	}
	first, err := identity.ECDH(once) // refuses points that make the secret all zero
	if err != nil {
		return nil, err
	}
	last, err := begun.base.ECDH(once)
	if err != nil {
		return nil, err
	}
	shared := secret.Bytes(slices.Concat(first, begun.agreement, last))
	defer shared.Wipe()
	begun.agreement.Wipe()
	s := session.NewOlmSession()
	if err := s.Ratchet.InitializeAsAlice(shared, begun.ratchet); err != nil {
		return nil, err
	}
	s.AliceIdentityKey = a.IdKeys.Curve25519.PublicKey
	s.AliceBaseKey, s.BobOneTimeKey = begun.base.PublicKey().Bytes(), once.Bytes()
	return s, nil
}

// newRatchetKey makes a key for agreements that come later, if at all. Its public half is
// computed with tables of multiples of the base point, on the curve in its other form, which
// takes a third of what X25519 takes.
func newRatchetKey() (crypto.Curve25519KeyPair, error) {
	private := make([]byte, keySize)
	_, _ = rand.Read(private) // crypto/rand never returns an error
	scalar, err := new(edwards25519.Scalar).SetBytesWithClamping(private)
	if err != nil {
		return crypto.Curve25519KeyPair{}, err
	}
	public := new(edwards25519.Point).ScalarBaseMult(scalar).BytesMontgomery()
	return crypto.Curve25519KeyPair{PrivateKey: private, PublicKey: public}, nil
}

func publicX25519(key id.Curve25519) (*ecdh.PublicKey, error) {
	raw, err := base64.RawStdEncoding.DecodeString(key.String())
	if err != nil {
		return nil, err
	}
	return ecdh.X25519().NewPublicKey(raw)
}

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
