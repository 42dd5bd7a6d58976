package e2ee

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/trustcache"
)

// What was decided before the network was used is decided again when something is
// encrypted, under the lock under which that is done: meanwhile an identity may have been
// replaced, a device have lost its owner's signature, an exception have been withdrawn
// (design §12). Nobody is asked for that. What memory says is enough, since it knows every
// change that the homeserver has told of.

// stillEligible reports by errRoomChanged that a send must begin again, because somebody
// whom it was decided to give the key to, or to tell why not, is to be treated otherwise
// now, or because a change is known of that nobody has looked at. That a device has been
// added since holds up nothing: it gets the key with the next event. It costs next to
// nothing while nothing has changed. The caller holds mu.
func (d *Device) stillEligible(ctx context.Context, who *eligible) error {
	version, mode := d.acct.tracker.Version(), d.eng.opts.Policy().Send
	if err := sendRefusal(d.ownIdentity.own, d.acct.settings().AllowUnsigned, mode); err != nil {
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
			return errRoomChanged // and then it is told why it must wait
		}
		if !d.decide(now, mode).covers(who) {
			return errRoomChanged
		}
	}
	return nil
}

// knownNow returns the users by whom it was decided as they are known now.
func (d *Device) knownNow(ctx context.Context, who *eligible) (now map[id.UserID]*trustcache.User, changed bool, err error) {
	users := make([]id.UserID, 0, len(who.known))
	for user := range who.known {
		users = append(users, user)
	}
	if now, err = d.acct.tracker.Cached(ctx, users); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCannotEncrypt, err)
	}
	for user, was := range who.known {
		is := now[user]
		if was.Knowledge == trustcache.KnowledgeFresh && is.Knowledge != trustcache.KnowledgeFresh {
			return nil, false, errRoomChanged // the homeserver must be asked about them
		}
		changed = changed || is != was
	}
	return now, changed, nil
}

// covers reports whether everybody who was to be given a key may still have it, and whoever
// was to be told why not is still to be told the same.
func (e *eligible) covers(was *eligible) bool {
	for ref, dev := range was.give {
		now := e.give[ref]
		if now == nil || now.Curve25519 != dev.Curve25519 || now.Ed25519 != dev.Ed25519 {
			return false
		}
	}
	for ref, w := range was.withhold {
		if now, ok := e.withhold[ref]; !ok || now.code != w.code {
			return false
		}
	}
	return true
}

// stillMayHold decides again whether a device of the user may be given a secret or a room
// key: it gives the own user as known now, nil when the device may not. errMoreToDo says
// that something changed and the homeserver must be asked first. The caller holds mu.
func (d *Device) stillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error) {
	if d.ownIdentity.own != ownSigned {
		return nil, nil
	}
	own, err := d.acct.tracker.Own(ctx)
	if err != nil {
		return nil, fmt.Errorf("look again at who asks: %w", err)
	}
	if own.Knowledge != trustcache.KnowledgeFresh {
		return nil, errMoreToDo
	}
	now := own.Device(dev.DeviceID)
	if !trustcache.MayHoldSecrets(own, now) || now.Curve25519 != dev.Curve25519 || now.Ed25519 != dev.Ed25519 {
		return nil, nil
	}
	return own, nil
}

// stillBacksUp decides again whether room keys may be encrypted for a backup: for one that is
// still taken for the account's, by a device that is still confirmed as far as is known.
func (d *Device) stillBacksUp(ctx context.Context, target *keybackup.Target) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	own, err := d.acct.tracker.Own(ctx)
	if err != nil {
		return false, fmt.Errorf("look again at the own identity: %w", err)
	}
	known, _ := d.acct.knownBackup()
	return d.ownIdentity.own == ownSigned && own.Knowledge == trustcache.KnowledgeFresh && known == target, nil
}
