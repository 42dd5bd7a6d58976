package e2ee

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/native"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// eligible is who gets a room's key now, and which devices get a withheld code instead.
type eligible struct {
	roomkeys.Recipients
	// against are those that are given it and would not be if the policy were enforced.
	against map[store.DeviceRef]bool
	// known, version and mode are what the decision was made by; see stillEligible.
	known   map[id.UserID]*trustcache.User
	version uint64
	mode    trustcache.Mode
	// rules are the organisation's, room is what they were told of the room.
	rules *orgrules.Version
	room  *rules.Room
}

// eligible computes, for every send anew, which devices may have the room's key. A user
// whose identity changed blocks the send. An unsigned device never does: it gets no key,
// but a withheld code.
func (d *Device) eligible(ctx context.Context, roomID id.RoomID, to *rooms.Audience) (*eligible, error) {
	version := d.acct.Tracker.Version()
	known, err := d.acct.Tracker.LookupMembers(ctx, d.core.Query(), to.Users, to.Joined)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	mode := d.core.Env.Policy().Send
	decision := trustcache.Gate(byUser(known), mode)
	if changed := d.toAcknowledge(&decision); len(changed) > 0 {
		if err := d.askAgain(ctx, known, changed); err != nil {
			return nil, err
		}
		decision = trustcache.Gate(byUser(known), mode)
	}
	d.acct.rollout.Gate(roomID, &decision)
	if err := gateError(&decision); err != nil {
		return nil, err
	}
	by := d.core.Env.Rules.Now()
	room, err := d.rooms.Facts(ctx, by, roomID, rules.SendKey)
	if err != nil { // nobody would get the key, and nobody could read the message
		return nil, fmt.Errorf("%w: look at the room for the organisation's rules: %w", core.ErrCannotEncrypt, err)
	}
	who, err := d.decide(known, mode, room, by, func(all []rules.Question) ([]rules.Answer, error) { return by.Ask(ctx, all) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	who.version = version
	who.Still = func(ctx context.Context) error { return d.stillEligible(ctx, who) }
	who.Shared = func(given []store.Share) { d.acct.rollout.Shares(who.against, given) }
	who.Decided = func(given []store.Share, refused []*trustcache.Device) *auditing.Decision {
		return d.decided(who, given, refused)
	}
	d.acct.rollout.Readers(roomID, who.against)
	return who, nil
}

// decide decides for every device of some users whether it may have a room's key. The
// organisation's rules are asked about those that would get it, at once.
func (d *Device) decide(known map[id.UserID]*trustcache.User, mode trustcache.Mode, room *rules.Room, by *orgrules.Version, ask func([]rules.Question) ([]rules.Answer, error)) (*eligible, error) {
	who := &eligible{
		Recipients: roomkeys.Recipients{
			Give: make(map[store.DeviceRef]*trustcache.Device), Withhold: make(map[store.DeviceRef]roomkeys.Withheld),
		},
		against: make(map[store.DeviceRef]bool), known: known, mode: mode, room: room, rules: by,
	}
	audited := d.core.Env.Store.Audits()
	var questions []rules.Question
	var asked []*trustcache.Device
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
				if by.Any() {
					questions, asked = append(questions, orgrules.KeyQuestion(d.acct.User, user, dev, room)), append(asked, dev)
				}
			case trustcache.ShareWithhold:
				who.Withhold[ref] = roomkeys.Withheld{Device: dev, Code: string(decision.Code)}
			case trustcache.ShareRefuse:
				if audited && decision.Reason != trustcache.ReasonSelf {
					who.refuse(ref, dev)
				}
			}
		}
	}
	answers, err := ask(questions)
	if err != nil {
		return nil, err
	}
	for i, dev := range asked {
		if answers[i].Effect != rules.Allow {
			ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
			delete(who.Give, ref)
			delete(who.against, ref)
			who.Withhold[ref] = roomkeys.Withheld{Device: dev, Code: codeUnauthorised, Reason: answers[i].Reason, Rule: orgrules.Reason(answers[i])}
		}
	}
	return who, nil
}

func (e *eligible) refuse(ref store.DeviceRef, dev *trustcache.Device) {
	if e.Refused == nil {
		e.Refused = make(map[store.DeviceRef]*trustcache.Device)
	}
	e.Refused[ref] = dev
}

// decided returns what the audit log is told of a share: the decision about every device
// that was given the key or a code, and about those that get nothing.
func (d *Device) decided(who *eligible, given []store.Share, refused []*trustcache.Device) *auditing.Decision {
	out := auditing.Begin(d.core, audit.KindRoomKey).Under(who.rules.Policy())
	if out == nil {
		return nil
	}
	add := func(dev *trustcache.Device, outcome audit.Outcome, code string) {
		user := who.known[dev.UserID]
		why := trustcache.Share(trustcache.ShareInput{User: user, Device: dev, SenderUser: d.acct.User, SenderDevice: d.core.ID, Mode: who.mode})
		rule := string(why.Reason)
		if code == codeUnauthorised {
			rule = who.Withhold[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}].Rule
		}
		out.Add(user, dev, outcome, code, rule)
	}
	for i := range given {
		share := &given[i]
		dev := who.known[share.UserID].Device(share.DeviceID)
		switch {
		case dev == nil: // not one that was decided about
		case share.Withheld != "":
			add(dev, audit.Withheld, share.Withheld)
		default:
			add(dev, audit.Given, "")
		}
	}
	for _, dev := range refused {
		add(dev, audit.Refused, "")
	}
	return out
}

// codeUnauthorised tells a device that a rule withholds a key from it (spec, m.room_key.withheld).
const codeUnauthorised = string(event.RoomKeyWithheldUnauthorized)

// byUser returns users ordered by ID, so that errors name them in a fixed order.
func byUser(known map[id.UserID]*trustcache.User) []*trustcache.User {
	users := make([]*trustcache.User, 0, len(known))
	for _, user := range slices.Sorted(maps.Keys(known)) {
		users = append(users, known[user])
	}
	return users
}

// toAcknowledge returns the users who block a send by a change that the account's settings
// acknowledge: it was seen before they were set so, and is acknowledged when it is seen again.
func (d *Device) toAcknowledge(decision *trustcache.GateDecision) []id.UserID {
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

// gateError returns why a send is refused; nil when it is not.
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
	by := d.core.Env.Rules.Now()
	room := d.rooms.FactsLocked(by, who.room.ID, rules.SendKey)
	moved := room.State != who.room.State || by != who.rules
	if version == who.version && mode == who.mode && !moved {
		return nil
	}
	now, changed, err := d.knownNow(ctx, who)
	if err != nil {
		return err
	}
	if changed || moved || mode != who.mode {
		if trustcache.Gate(byUser(now), mode).Outcome != trustcache.GateAllow {
			return core.ErrRoomChanged // the next round returns the reason
		}
		again, err := d.decide(now, mode, room, by, by.AllAgain)
		if err != nil || !again.covers(who) {
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
	if state := d.ownIdentity.StateLocked(); state == ownidentity.Unknown {
		return nil, core.ErrMoreToDo
	} else if state != ownidentity.Signed {
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

// lookUp updates what is known of a user from the homeserver, if it answers. A device with keys
// of its own hears of no changes: for it, nobody is followed.
func (d *Device) lookUp(ctx context.Context, user id.UserID) (*trustcache.User, error) {
	known, err := d.acct.Tracker.Cached(ctx, []id.UserID{user})
	if d.core.Mode == core.ModeProxied {
		known, err = d.acct.Tracker.Lookup(ctx, d.core.Query(), []id.UserID{user})
	} else if now, failed := d.acct.Tracker.Within(ctx, d.core.Query(), []id.UserID{user}, lookUpAge); failed == nil {
		known = now
	} else if !errors.Is(failed, trustcache.ErrNotAnswered) {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("look up a user: %w", err)
	}
	return known[user], nil
}

// lookUpAge is how old what is known of a user may be for the control API, if nobody tells of
// changes.
const lookUpAge = 5 * time.Second

type (
	// NativeClient is a client with keys of its own, see package native; a NativeRecipient is a
	// device that it wants to give something.
	NativeClient    = native.Client
	NativeRecipient = native.Recipient
	// KeyAnswer is an answer to /keys/query.
	KeyAnswer = trustcache.QueryResult
)

// Native returns the client of a token as one with keys of its own, nil when policy.native is
// off. asserted says that the token is an application service's, which acts as the user.
// Nothing is asked for it, and no device is adopted.
func (e *Engine) Native(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String, asserted bool) (*NativeClient, error) {
	if e.env.Policy().Native == trustcache.ModeOff {
		return nil, nil
	}
	acct := e.owned.Get(user)
	if acct == nil || acct.tenure.IsGone() {
		var err error
		if acct, err = e.owned.Claim(ctx, user, e.env.Store.Claim); err != nil {
			return nil, err
		}
	}
	query := wire.KeyQuery{Homeserver: e.env.Homeserver, Token: token, User: user, Asserted: asserted}
	return native.NewClient(&acct.Account, e.native, &acct.rollout, &acct.warnings, device, query), nil
}

// handles begins what a person does with keys in files: it is written into the audit log
// before it is done.
func (d *Device) handles(ctx context.Context, kind audit.Kind) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	return auditing.Append(ctx, d.core, kind, "")
}

// readRecoveryKey returns the recovery key, and writes into the audit log that it was read.
func (d *Device) readRecoveryKey(ctx context.Context) (secret.String, error) {
	key, err := d.acct.identity.RecoveryKey(ctx)
	if err == nil {
		err = auditing.Append(ctx, d.core, audit.KindRecoveryKey, "")
	}
	if err != nil {
		return secret.String{}, err
	}
	return key, nil
}
