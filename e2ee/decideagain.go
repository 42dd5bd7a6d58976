package e2ee

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/trustcache"
)

// What was decided before a request to the homeserver is decided again under the lock under
// which something is encrypted: meanwhile an identity may have been replaced, a device may
// have lost its owner's signature, or an exception may have been withdrawn
// (docs/architecture.md, "Trust"). That takes no request: memory knows every change that
// the homeserver has reported.

// stillEligible returns core.ErrRoomChanged if a send must begin again: the decision about a
// device that was to get the key, or a withheld code, is another now, or a user changed and
// nobody has looked at it yet. A device that was added since gets the key with the next
// event. While nothing has changed it costs next to nothing. The caller holds mu.
func (d *Device) stillEligible(ctx context.Context, who *eligible) error {
	version, mode := d.acct.Tracker.Version(), d.core.Env.Policy().Send
	if err := sendRefusal(d.ownIdentity.StateLocked(), d.acct.Settings().AllowUnsigned, mode); err != nil {
		return err
	}
	if version == who.version && mode == who.mode {
		return nil
	}
	now, changed, err := d.knownNow(ctx, who)
	if err != nil {
		return err
	}
	if changed || mode != who.mode {
		if trustcache.Gate(byUser(now), mode).Outcome != trustcache.GateAllow {
			return core.ErrRoomChanged // the next round returns the reason
		}
		if !d.decide(now, mode).covers(who) {
			return core.ErrRoomChanged
		}
	}
	return nil
}

// knownNow returns what is known now of the users that the decision was about.
func (d *Device) knownNow(ctx context.Context, who *eligible) (now map[id.UserID]*trustcache.User, changed bool, err error) {
	users := make([]id.UserID, 0, len(who.known))
	for user := range who.known {
		users = append(users, user)
	}
	if now, err = d.acct.Tracker.Cached(ctx, users); err != nil {
		return nil, false, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	for user, was := range who.known {
		is := now[user]
		if was.Knowledge == trustcache.KnowledgeFresh && is.Knowledge != trustcache.KnowledgeFresh {
			return nil, false, core.ErrRoomChanged // the homeserver must be asked about them
		}
		changed = changed || is != was
	}
	return now, changed, nil
}

// covers reports whether every device that was to get a key may still have it, and every
// withheld code is still the same.
func (e *eligible) covers(was *eligible) bool {
	for ref, dev := range was.Give {
		now := e.Give[ref]
		if now == nil || now.Curve25519 != dev.Curve25519 || now.Ed25519 != dev.Ed25519 {
			return false
		}
	}
	for ref, w := range was.Withhold {
		if now, ok := e.Withhold[ref]; !ok || now.Code != w.Code {
			return false
		}
	}
	return true
}

// stillMayHold decides again whether a device of the user may get a secret or a room key.
// It returns the own user as known now, nil when the device may not. core.ErrMoreToDo means that
// something changed and the homeserver must be asked first. The caller holds mu.
func (d *Device) stillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error) {
	if d.ownIdentity.StateLocked() != ownidentity.Signed {
		return nil, nil
	}
	own, err := d.acct.Tracker.Own(ctx)
	if err != nil {
		return nil, fmt.Errorf("look again at who asks: %w", err)
	}
	if own.Knowledge != trustcache.KnowledgeFresh {
		return nil, core.ErrMoreToDo
	}
	now := own.Device(dev.DeviceID)
	if !trustcache.MayHoldSecrets(own, now) || now.Curve25519 != dev.Curve25519 || now.Ed25519 != dev.Ed25519 {
		return nil, nil
	}
	return own, nil
}
