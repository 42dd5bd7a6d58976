package e2ee

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// eligible are the devices that may have a room's key now, and those that get a withheld
// code instead.
type eligible struct {
	roomkeys.Recipients
	// against are those that are given it and would not be if the policy were enforced.
	against map[store.DeviceRef]bool
	// known, version and mode are what the decision was made by; see stillEligible.
	known   map[id.UserID]*trustcache.User
	version uint64
	mode    trustcache.Mode
}

// eligible computes, for every send anew, which devices may have the room's key. A user
// whose identity changed blocks the send. An unsigned device never does: it gets no key,
// but a withheld code.
func (d *Device) eligible(ctx context.Context, roomID id.RoomID, users []id.UserID) (*eligible, error) {
	version := d.acct.Tracker.Version()
	known, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), users)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	mode := d.core.Env.Policy().Send
	decision := trustcache.Gate(byUser(known), mode)
	if late := d.unanswered(&decision); len(late) > 0 {
		if err := d.askAgain(ctx, known, late); err != nil {
			return nil, err
		}
		decision = trustcache.Gate(byUser(known), mode)
	}
	d.acct.rollout.Gate(roomID, &decision)
	if err := gateError(&decision); err != nil {
		return nil, err
	}
	who := d.decide(known, mode)
	who.version = version
	who.Still = func(ctx context.Context) error { return d.stillEligible(ctx, who) }
	who.Shared = func(given []store.Share) { d.acct.rollout.Shares(who.against, given) }
	d.acct.rollout.Readers(roomID, who.against)
	return who, nil
}

// decide decides for every device of some users whether it may have a room's key.
func (d *Device) decide(known map[id.UserID]*trustcache.User, mode trustcache.Mode) *eligible {
	who := &eligible{
		Recipients: roomkeys.Recipients{
			Give: make(map[store.DeviceRef]*trustcache.Device), Withhold: make(map[store.DeviceRef]roomkeys.Withheld),
		},
		against: make(map[store.DeviceRef]bool), known: known, mode: mode,
	}
	for _, user := range known {
		for i := range user.Devices {
			dev := &user.Devices[i]
			ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
			decision := trustcache.Share(trustcache.ShareInput{
				User: user, Device: dev, SenderUser: d.acct.User, SenderDevice: d.core.ID, Mode: mode,
			})
			switch decision.Outcome {
			case trustcache.ShareGive:
				who.Give[ref] = dev
				if decision.Enforced != trustcache.ShareGive {
					who.against[ref] = true
				}
			case trustcache.ShareWithhold:
				who.Withhold[ref] = roomkeys.Withheld{Device: dev, Code: string(decision.Code)}
			case trustcache.ShareRefuse:
			}
		}
	}
	return who
}

// byUser returns users ordered by ID, so that errors name them in a fixed order.
func byUser(known map[id.UserID]*trustcache.User) []*trustcache.User {
	users := make([]*trustcache.User, 0, len(known))
	for _, user := range slices.Sorted(maps.Keys(known)) {
		users = append(users, known[user])
	}
	return users
}

// unanswered returns the users whose change would be acknowledged automatically if it were
// seen now, but was seen before the account was set so.
func (d *Device) unanswered(decision *trustcache.GateDecision) []id.UserID {
	if decision.Outcome != trustcache.GateBlocked || !d.acct.Settings().AcknowledgeUnverified {
		return nil
	}
	var users []id.UserID
	for _, b := range decision.Blocked {
		if !b.Own && b.State == trustcache.PinChanged {
			users = append(users, b.UserID)
		}
	}
	return users
}

// askAgain queries users again and updates known.
func (d *Device) askAgain(ctx context.Context, known map[id.UserID]*trustcache.User, users []id.UserID) error {
	again, err := d.acct.Tracker.Query(ctx, d.core.Query(), users)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	maps.Copy(known, again)
	return nil
}

// gateError returns why a send must wait, nil when it need not.
func gateError(decision *trustcache.GateDecision) error {
	switch decision.Outcome {
	case trustcache.GateAllow:
		return nil
	case trustcache.GateBlocked:
		blocked := &core.IdentityChangedError{}
		for _, b := range decision.Blocked {
			if b.Own { // the own identity was replaced elsewhere: see checkMaySend
				return core.ErrDeviceNotSigned
			}
			if b.State == trustcache.PinVerificationLost {
				blocked.Lost = append(blocked.Lost, b.UserID)
			} else {
				blocked.Users = append(blocked.Users, b.UserID)
			}
		}
		return blocked
	case trustcache.GateCannotTell:
	}
	return fmt.Errorf("%w: the own identity is not known", core.ErrCannotEncrypt)
}
