package ownidentity

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/strictjson"
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

// Dendrite (0.15.2) tells other homeservers of a device by its keys as the device uploaded
// them, never with the signature that its owner added later. Users of Synapse then see the
// device unsigned for good, and leave it out of their room keys. So the signature is uploaded
// as part of the keys, too, which every homeserver passes on.

// PassOn uploads the device's keys again with its owner's signature in them, once for each
// self-signing key, whoever made the signature.
func (o *Identity) PassOn(ctx context.Context) error {
	keys, by, err := o.keysToPassOn()
	if keys == nil || err != nil {
		return err
	}
	err = o.Call(ctx, wire.Request{
		Op: "upload signed device keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: map[string]any{"device_keys": keys},
	})
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if status := wire.Status(err); status/100 == 4 && status != http.StatusUnauthorized && status != http.StatusTooManyRequests {
		// The homeserver has the keys and the signature, each by itself.
		o.passedOn = by
		o.Env.Log.Warn().Err(err).Stringer("account", o.acct.User).Msg("The homeserver takes no device keys that are signed by their owner")
		return nil
	}
	if err != nil {
		return err
	}
	s := o.Begin()
	if err := s.ChangeMeta(func(m *core.Meta) { m.PassedOn = by }); err != nil {
		return err
	}
	s.After(func() { o.passedOn = by })
	return s.Commit(ctx, "that signed device keys were uploaded")
}

// keysToPassOn returns the device's keys with the signatures of the device and of its owner, and
// the owner's self-signing key; nil when that was uploaded, or cannot be yet.
func (o *Identity) keysToPassOn() (json.RawMessage, id.Ed25519, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	by := o.signedBy
	if o.Mode != core.ModeProxied || o.state != Signed || !o.KeysTakenLocked() || by == o.passedOn || o.serverKeys == nil {
		return nil, "", nil
	}
	if core.ReadMeta(o.Record.Row.Meta).PassedOn == by {
		o.passedOn = by
		return nil, "", nil
	}
	obj, err := strictjson.Parse(o.serverKeys)
	if err != nil {
		return nil, "", err
	}
	keys, made := obj.Without("signatures").Encode(), obj.Object("signatures").Object(o.acct.User.String())
	for _, signer := range []string{o.ID.String(), by.String()} {
		signature, ok := made.Text("ed25519:" + signer)
		if !ok {
			return nil, "", nil
		}
		if keys, err = wire.AddSignature(keys, o.acct.User, "ed25519:"+signer, signature); err != nil {
			return nil, "", err
		}
	}
	return keys, by, nil
}
