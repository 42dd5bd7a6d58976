package ownidentity

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/trustcache"
)

// The identity's signature of this device is read back after its upload, because a
// homeserver may answer 200 and not store it. Synapse keeps the signature of a device that
// was logged out, and when its ID is used again, with other keys, it shows the old one and
// skips the new (synapse/handlers/e2e_keys.py, _process_self_signatures: "it should be
// exactly the same").

// rereads is how often an accepted signature is read back before it counts as not shown:
// homeservers write and read in different components.
const rereads = 3

// signatureTrial is the state of signing the device with a key. It is guarded by the
// Device.
type signatureTrial struct {
	by       id.Ed25519 // the self-signing key
	err      error      // why signing failed; nil when it did not
	failures backoff.Pauses
	next     time.Time // no retry before this
}

// signatureFailed reports whether an error is only about the signature of this device:
// everything that does not need it continues.
func signatureFailed(err error) bool {
	return errors.Is(err, core.ErrSignatureNotShown) || errors.Is(err, core.ErrSignatureRefused)
}

// signSelf signs this device and reads the signature back. A failed try with the same key
// is not repeated before its time: each one changes the device for everybody.
func (o *Identity) signSelf(ctx context.Context, own *trustcache.User, keys *identity.Keys) error {
	dev := own.Device(o.ID)
	if dev == nil || own.SelfSigning != keys.SelfSigning.PublicKey() {
		return errIdentityNotShown
	}
	if dev.Ed25519 != o.Ed25519 || dev.Curve25519 != o.Curve25519 {
		return core.ErrKeysReplaced // otherwise the homeserver would get a confirmed device of its own
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
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if err == nil {
		o.confirmedAt = o.Env.Now()
		return nil // updateState has ended the trial
	}
	if o.signature.by != by {
		o.signature = signatureTrial{by: by}
	}
	pause := o.signature.failures.Next(core.UpkeepPauses())
	o.signature.err, o.signature.next = err, o.Env.Now().Add(pause)
	o.host.RetrySignature(pause)
	return err
}

// rereadSignature looks for the signature that was just accepted.
func (o *Identity) rereadSignature(ctx context.Context) error {
	return o.reread(ctx, func() (bool, error) {
		_, err := o.ReadOwn(ctx, true)
		return err == nil && o.State() == Signed, err
	})
}

// endSignatureTrial ends a trial that succeeded or whose key was replaced. The caller holds
// mu.
func (o *Identity) endSignatureTrial(state State, selfSigning id.Ed25519) {
	if o.signature.err != nil && (state == Signed || o.signature.by != selfSigning) {
		o.signature = signatureTrial{}
		o.host.DropSignatureRetry()
	}
}

// signatureStands returns why the device could not be signed with a key, while it is too
// early to retry.
func (o *Identity) signatureStands(by id.Ed25519) error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if o.signature.by == by && o.Env.Now().Before(o.signature.next) {
		return o.signature.err
	}
	return nil
}

// SignatureTrouble returns why the device could not be signed; nil when nothing failed.
func (o *Identity) SignatureTrouble() error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.signature.err
}

// signatureDue reports whether it is time to retry a failed signature.
func (o *Identity) signatureDue() bool {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.signature.err != nil && !o.Env.Now().Before(o.signature.next)
}

// signAgain allows the next try at once, because somebody asks for it.
func (o *Identity) signAgain() {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	o.signature.next = time.Time{}
}
