package e2ee

import (
	"context"
	"errors"
	"fmt"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/trustcache"
)

// checkMaySend returns why the device may not send encrypted messages, nil when it may. It
// publishes keys and sets the identity up first, if need be. Others show only messages of
// devices that their owner has confirmed.
func (d *Device) checkMaySend(ctx context.Context) error {
	if d.ownIdentity.State() != ownidentity.Signed {
		if err := d.uploadNow(ctx); err != nil {
			return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
		if err := d.ownIdentity.SetUp(ctx); err != nil {
			d.core.Env.Log.Warn().Err(err).Msg("The identity could not be set up before a send")
		}
		if d.ownIdentity.State() == ownidentity.Unknown {
			if _, err := d.ownIdentity.ReadOwn(ctx, false); err != nil {
				return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
			}
		}
	}
	refusal := sendRefusal(d.ownIdentity.State(), d.acct.Settings().AllowUnsigned, d.core.Env.Policy().Send)
	if why := d.ownIdentity.SignatureTrouble(); errors.Is(refusal, core.ErrDeviceNotSigned) && why != nil && d.ownIdentity.State() == ownidentity.Unsigned {
		return why // the advice for an unsigned device does not help here
	}
	return refusal
}

// sendRefusal returns why a device may send nothing to encrypted rooms; nil when it may.
// That a device must be confirmed is an account setting, not part of the policy: it also
// holds while the policy is on "warn".
func sendRefusal(own ownidentity.State, allowUnsigned bool, policy trustcache.Mode) error {
	switch own {
	case ownidentity.Signed:
		return nil
	case ownidentity.Replaced:
		return core.ErrKeysReplaced
	case ownidentity.Changed:
		// If unsigned devices may send, the policy still decides about the identity.
		if allowUnsigned && (policy == trustcache.ModeWarn || policy == trustcache.ModeOff) {
			return nil
		}
		return core.ErrDeviceNotSigned
	case ownidentity.NoIdentity, ownidentity.Unsigned:
		if allowUnsigned {
			return nil
		}
		return core.ErrDeviceNotSigned
	case ownidentity.Unknown:
	}
	return fmt.Errorf("%w: the own keys are not known", core.ErrCannotEncrypt)
}

// uploadNow publishes the device's keys if that has not happened yet.
func (d *Device) uploadNow(ctx context.Context) error {
	d.publication.PublishWithin(0)
	d.core.Mu.Lock()
	uploaded := d.ownIdentity.KeysTakenLocked()
	d.core.Mu.Unlock()
	if uploaded {
		return nil
	}
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	return d.keySupply.Upload(ctx)
}
