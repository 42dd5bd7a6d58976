package auditing

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/trustcache"
)

// Rules besides those of trustcache.
const (
	// RuleNotVerified is a device whose owner's identity is not one that the account has
	// verified, as it has to be for what is asked for.
	RuleNotVerified = "identity_not_verified"
	// RuleUnknownDevice is a device that the homeserver does not show.
	RuleUnknownDevice = "unknown_device"
	// RuleNoLonger is a device that might have had it when it was asked for, and may not now.
	RuleNoLonger = "no_longer_confirmed"
	// RuleNoChannel is a device that had no one-time key.
	RuleNoChannel = "no_olm"
	// RuleNotAnswered is an account whose settings leave requests unanswered.
	RuleNotAnswered = "requests_ignored"
	// RuleOwnDevice is a device of the own user whose one-time keys a client may always claim.
	RuleOwnDevice = "own_device"
)

// Decision is a record that is being made. The methods of a nil Decision do nothing: no log
// is written.
type Decision struct {
	record *audit.Record
	users  map[id.UserID]int
}

// Begin returns a decision of a device whose keys the proxy holds; nil if no log is written.
func Begin(p *core.Device, kind audit.Kind) *Decision {
	d := BeginFor(p.Env, p.Account.User, p.ID, kind)
	if d != nil {
		d.record.Ed25519 = p.Ed25519.String()
	}
	return d
}

// BeginFor is Begin for any device, such as one whose client has keys of its own.
func BeginFor(env *core.Env, user id.UserID, device id.DeviceID, kind audit.Kind) *Decision {
	if !env.Store.Audits() {
		return nil
	}
	return &Decision{users: make(map[id.UserID]int), record: &audit.Record{
		At: env.Now(), Kind: kind, Account: user.String(), Device: device.String(), Policy: env.PolicyVersion(),
	}}
}

// Gave returns the decision that a device of the own user is given what it asked for.
func Gave(p *core.Device, kind audit.Kind, own *trustcache.User, dev *trustcache.Device) *Decision {
	d := Begin(p, kind)
	d.Add(own, dev, audit.Given, "", Rule(own, dev, true))
	return d
}

// InRoom says which room, and which Megolm session from which index on, it is about.
func (d *Decision) InRoom(room id.RoomID, session id.SessionID, index uint32) *Decision {
	if d == nil {
		return nil
	}
	d.record.Room, d.record.Index = room.String(), index
	if session != "" {
		d.record.Session = audit.HashSession(session.String())
	}
	return d
}

// Under says by which version of the policy it was decided, where that may have changed since.
func (d *Decision) Under(policy string) *Decision {
	if d != nil {
		d.record.Policy = policy
	}
	return d
}

// Secret names the secret that it is about.
func (d *Decision) Secret(name string) *Decision {
	if d != nil {
		d.record.Secret = name
	}
	return d
}

// Note adds what else there is to say.
func (d *Decision) Note(text string) {
	if d != nil {
		d.record.Note = text
	}
}

// Add adds what was decided for a device. code is that of m.room_key.withheld, rule why. user
// may be nil when nothing is known of them.
func (d *Decision) Add(user *trustcache.User, dev *trustcache.Device, outcome audit.Outcome, code, rule string) {
	if d == nil {
		return
	}
	at, known := d.users[dev.UserID]
	if !known {
		one := audit.User{ID: dev.UserID.String()}
		if user != nil {
			one.Pin, one.Master, one.SelfSigning = user.State().String(), user.Current.String(), user.SelfSigning.String()
		}
		at = len(d.record.Users)
		d.users[dev.UserID], d.record.Users = at, append(d.record.Users, one)
	}
	u := &d.record.Users[at]
	u.Devices = append(u.Devices, audit.Recipient{
		Device: dev.DeviceID.String(), Ed25519: dev.Ed25519.String(), Curve25519: dev.Curve25519.String(),
		Outcome: outcome, Code: code, Rule: rule,
	})
}

// Records returns the record, for [store.Changes]; none if it is about no device.
func (d *Decision) Records() []*audit.Record {
	if d == nil || len(d.record.Users) == 0 {
		return nil
	}
	return []*audit.Record{d.record}
}

// Append writes the record for a decision that stores nothing else. What was decided must
// not be done if it returns an error.
func (d *Decision) Append(ctx context.Context, env *core.Env) error {
	return env.Store.AppendAudit(ctx, d.Records()...)
}

// Asked returns the decision about a request for a secret or a room key that is refused
// because of who asks. own is the own user, device the ID that the request has.
func (d *Decision) Asked(own *trustcache.User, device id.DeviceID) {
	dev := own.Device(device)
	switch {
	case dev == nil:
		d.Add(own, &trustcache.Device{UserID: own.UserID, DeviceID: device}, audit.Refused, "", missing(own))
	case trustcache.MayHoldSecrets(own, dev):
		d.Add(own, dev, audit.Refused, "", RuleNoLonger)
	default:
		d.Add(own, dev, audit.Refused, "", Rule(own, dev, false))
	}
}

func missing(own *trustcache.User) string {
	if !own.Known() || !own.Verified {
		return RuleNotVerified
	}
	return RuleUnknownDevice
}

// Rule returns why a device was, or was not, given what only confirmed devices get: the
// reason that the policy has when it is enforced.
func Rule(user *trustcache.User, dev *trustcache.Device, given bool) string {
	why := trustcache.Share(trustcache.ShareInput{User: user, Device: dev, Mode: trustcache.ModeEnforce})
	if !given && why.Outcome == trustcache.ShareGive {
		if dev.Signed {
			return RuleNotVerified
		}
		return string(trustcache.ReasonUnsigned) // an exception is for messages only
	}
	return string(why.Reason)
}

// Of returns the record of something that a person or an administrator did with a device,
// for [store.Changes].
func Of(p *core.Device, kind audit.Kind, note string) []*audit.Record {
	d := Begin(p, kind)
	if d == nil {
		return nil
	}
	d.record.Note = note
	return []*audit.Record{d.record}
}

// Append writes such a record when nothing else is stored. What it is about must not be done
// if it returns an error.
func Append(ctx context.Context, p *core.Device, kind audit.Kind, note string) error {
	return p.Env.Store.AppendAudit(ctx, Of(p, kind, note)...)
}
