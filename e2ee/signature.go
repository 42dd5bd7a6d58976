package e2ee

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/trustcache"
)

// The signature by which the identity confirms this device is read back: a homeserver may
// answer 200 and not keep it. Synapse keeps the signature of a device that was logged out,
// and when its ID is used again, with other keys, it shows the old one and skips the new
// (synapse/handlers/e2e_keys.py, _process_self_signatures: "it should be exactly the same").

// rereads is how often a signature that was accepted is looked for before it counts as not
// shown: homeservers write in one part and read in another.
const rereads = 3

// signatureTrial is what came of signing the device with a key. It is guarded by the Device.
type signatureTrial struct {
	by       id.Ed25519 // the self-signing key
	err      error      // why it is not signed with it; nil when nothing failed
	failures backoff.Pauses
	next     time.Time // not tried before this
}

// signatureFailed reports whether an error is about the signature of this device, and
// about nothing else: all that does not need it goes on.
func signatureFailed(err error) bool {
	return errors.Is(err, ErrSignatureNotShown) || errors.Is(err, ErrSignatureRefused)
}

// signSelf signs this device and reads the signature back. What failed with the same key
// is not tried again before its time: each try tells everybody that the device changed.
func (o *ownIdentity) signSelf(ctx context.Context, own *trustcache.User, keys *identity.Keys) error {
	dev := own.Device(o.id)
	if dev == nil || own.SelfSigning != keys.SelfSigning.PublicKey() {
		return errIdentityNotShown
	}
	if dev.Ed25519 != o.ed25519 || dev.Curve25519 != o.curve25519 {
		return ErrKeysReplaced // the homeserver would get a confirmed device of its own
	}
	by := keys.SelfSigning.PublicKey()
	if err := o.signatureStands(by); err != nil {
		return err
	}
	err := o.signDevice(ctx, keys, dev.Raw)
	if err == nil {
		err = o.rereadSignature(ctx)
	}
	if err != nil && !signatureFailed(err) {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.confirmedAt = o.eng.now()
		return nil // updateOwnState has ended the trial
	}
	if o.signature.by != by {
		o.signature = signatureTrial{by: by}
	}
	pause := o.signature.failures.Next(upkeepPauses())
	o.signature.err, o.signature.next = err, o.eng.now().Add(pause)
	o.host.retryLocked(retrySignature, pause)
	return err
}

// rereadSignature looks for the signature that was just accepted.
func (o *ownIdentity) rereadSignature(ctx context.Context) error {
	for again := 1; ; again++ {
		if _, err := o.readOwn(ctx, true); err != nil {
			return err
		}
		switch {
		case o.ownNow() == ownSigned:
			return nil
		case again > rereads:
			return ErrSignatureNotShown
		}
		if err := backoff.Wait(ctx, rereadPauses().After(again)); err != nil {
			return err
		}
	}
}

// endSignatureTrial ends a trial that is over. The caller holds mu.
func (o *ownIdentity) endSignatureTrial(state ownState, selfSigning id.Ed25519) {
	if o.signature.err != nil && (state == ownSigned || o.signature.by != selfSigning) {
		o.signature = signatureTrial{}
		o.host.dropRetry(retrySignature)
	}
}

// signatureStands returns why the device could not be signed with a key, while it is too
// early for another try.
func (o *ownIdentity) signatureStands(by id.Ed25519) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.signature.by == by && o.eng.now().Before(o.signature.next) {
		return o.signature.err
	}
	return nil
}

// signatureTrouble returns why the device could not be signed; nil when that did not fail.
func (o *ownIdentity) signatureTrouble() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.signature.err
}

// signatureDue reports whether a signature that failed is to be tried again.
func (o *ownIdentity) signatureDue() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.signature.err != nil && !o.eng.now().Before(o.signature.next)
}

// signAgain lets the next try be made at once: somebody asks for it.
func (o *ownIdentity) signAgain() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.signature.next = time.Time{}
}

// problemOfUnsigned returns what status says of a device that its identity has not signed.
func (o *ownIdentity) problemOfUnsigned() Problem {
	switch why := o.signatureTrouble(); {
	case errors.Is(why, ErrSignatureNotShown):
		return problemSignatureNotShown
	case errors.Is(why, ErrSignatureRefused):
		return problemSignatureRefused
	}
	return problemUnsigned
}
