package gossip

import (
	"context"
	"errors"
	"fmt"

	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// An answer that was made waits in the outbox while the homeserver takes nothing. Whether the device may
// still have it is decided again before it is sent, as it was when it was made.

// errRecipient means that it cannot be told whom an answer is for.
var errRecipient = errors.New("it cannot be told whom an answer is for")

// StillMayGive decides again about an answer that waits, and about what is for one device of the user
// and may be an answer. An error means that it cannot be told now.
func (x *Exchange) StillMayGive(ctx context.Context, about *olm.About) (bool, error) {
	if len(about.To) != 1 {
		return false, errRecipient
	}
	to := &about.To[0]
	own, err := x.Account.Tracker.Own(ctx)
	if err != nil {
		return false, fmt.Errorf("look again at who asked: %w", err)
	}
	dev := own.Device(to.Device)
	if !to.Is(dev) { // nobody has the keys for it any more, unless more is known soon
		dev = &trustcache.Device{UserID: to.User, DeviceID: to.Device}
	} else if trustcache.MayHoldSecrets(own, dev) {
		if err := x.askPoint(ctx, about, own, dev); err != nil {
			return false, err
		}
	}
	x.Mu.Lock()
	defer x.Mu.Unlock()
	own, err = x.host.StillMayHold(ctx, dev)
	if err != nil || own == nil {
		return false, err
	}
	switch dev := own.Device(dev.DeviceID); about.Kind {
	case olm.KindSecret:
		return !x.Account.Settings().IgnoreSecretRequests && secretRuled(x.Env.Rules.Now().Again(), own, dev).Effect == rules.Allow, nil
	case olm.KindForward:
		return x.keyRuledAgain(about.Room, own, dev).Effect == rules.Allow, nil
	case olm.KindUnknown:
		return secretRuled(x.Env.Rules.Now().Again(), own, dev).Effect == rules.Allow, nil
	case olm.KindHistory:
	}
	return false, errRecipient
}

// askPoint has the organisation's decision point asked, if there is one, before the device's lock is taken.
func (x *Exchange) askPoint(ctx context.Context, about *olm.About, own *trustcache.User, dev *trustcache.Device) error {
	by, q := x.Env.Rules.Now(), orgrules.SecretQuestion(own, dev)
	if about.Kind == olm.KindForward {
		room, err := x.host.Facts(ctx, by, about.Room, rules.SendKey)
		if err != nil {
			return fmt.Errorf("look again at a room for the organisation's rules: %w", err)
		}
		q = orgrules.KeyQuestion(own.UserID, own, dev, room)
	}
	_, err := by.Known(ctx, []rules.Question{q})
	return err
}
