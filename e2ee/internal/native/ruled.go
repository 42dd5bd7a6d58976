package native

import (
	"context"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// What a client encrypts for a device cannot be read here: it may be the key of any room, and for
// a device of the own user a secret. So a device is denied it if it is denied the keys of every
// room, and one of the own user also if it is denied secrets. Rules about rooms hold where the
// room is known, which is when the client sends into it: if somebody there may have been given
// the room's key and must not have it, what would be readable with it does not leave.

// passFor is how long what was decided about sending into a room holds, as long as the account's
// clients give no device anything.
const passFor = 30 * time.Second

// pass is by what it was last decided that a client may send into a room.
type pass struct {
	rules   *orgrules.Version
	version uint64 // of what is known of users
	given   uint64 // see Shared.gives
	at      time.Time
}

type passKey struct {
	tenure uint64 // of the account
	device id.DeviceID
	room   id.RoomID
}

// narrow hides the devices of an answer that the organisation's rules deny everything.
func (c *Client) narrow(ctx context.Context, by *orgrules.Version, view *trustcache.NativeView) error {
	if !by.Any() || len(view.Left) == 0 {
		return nil
	}
	known, err := c.learned(ctx, view)
	if err != nil {
		return err
	}
	questions := make([]rules.Question, len(view.Left))
	for i := range view.Left {
		one := &view.Left[i]
		user := one.User
		if now := known[one.UserID]; now != nil && user != nil && now.Current == user.Current {
			user = now // with the pin that it has by the answer
		}
		questions[i] = orgrules.AnyKeyQuestion(c.User, one.UserID, user, one.Device)
	}
	answers, err := by.Ask(ctx, questions)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	for i := range answers {
		if answers[i].Effect != rules.Allow {
			view.Hide(&view.Left[i])
		}
	}
	return nil
}

// learned returns the users of the devices that are left in an answer as they are known by it.
func (c *Client) learned(ctx context.Context, view *trustcache.NativeView) (map[id.UserID]*trustcache.User, error) {
	var users []id.UserID
	for i := range view.Left {
		if one := view.Left[i].UserID; view.Left[i].User != nil && !slices.Contains(users[max(0, len(users)-1):], one) {
			users = append(users, one)
		}
	}
	slices.Sort(users)
	known, err := c.Tracker.Cached(ctx, slices.Compact(users))
	if err != nil {
		return nil, fmt.Errorf("look up users: %w", err)
	}
	return known, nil
}

// narrowGiven takes back what the organisation's rules deny of what recipients would be given.
// One-time keys of own devices are not among it, see [Client.MayGet].
func (c *Client) narrowGiven(ctx context.Context, by *orgrules.Version, all []wanted) error {
	if !by.Any() {
		return nil
	}
	var questions []rules.Question
	var of []*wanted
	message := false
	for i := range all {
		w := &all[i]
		message = message || w.Message
		if !w.given || !w.Message && w.UserID == c.User {
			continue
		}
		questions, of = append(questions, orgrules.AnyKeyQuestion(c.User, w.UserID, w.user, w.device)), append(of, w)
		if w.UserID == c.User {
			questions, of = append(questions, orgrules.SecretQuestion(w.user, w.device)), append(of, w)
		}
	}
	if message {
		c.shared.gives(c.Tenure)
	}
	answers, err := by.Ask(ctx, questions)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	for i, w := range of {
		if answers[i].Effect != rules.Allow && w.given {
			w.given, w.denied, w.decision.Outcome = false, orgrules.Reason(answers[i]), trustcache.NativeHide
		}
	}
	return nil
}

// gives is called before a client of an account gives devices something: who is in a room may be
// given its key by it, so that rooms are looked at again.
func (sh *Shared) gives(tenure uint64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.gave++
	sh.given.Add(tenure, sh.gave)
}

// hasGiven names what the account's clients have given so far.
func (sh *Shared) hasGiven(tenure uint64) uint64 {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if n, ok := sh.given.Get(tenure); ok {
		return n
	}
	sh.gave++ // it is not known, so what was decided before does not hold
	sh.given.Add(tenure, sh.gave)
	return sh.gave
}

// ruled returns why the client may not send into a room by the organisation's rules about rooms.
func (c *Client) ruled(ctx context.Context, room id.RoomID) error {
	by := c.Env.Rules.Now()
	asks, tried := by.AsksRooms(rules.SendKey)
	if !asks {
		return nil
	}
	key := passKey{c.Tenure, c.device, room}
	now := pass{by, c.Tracker.Version(), c.shared.hasGiven(c.Tenure), c.Env.Now()}
	if was, ok := c.shared.passes.Get(key); ok && was.rules == now.rules && was.version == now.version && was.given == now.given && now.at.Sub(was.at) < passFor {
		return nil
	}
	err := c.askRuled(ctx, by, room)
	if err == nil {
		c.shared.passes.Add(key, now)
	}
	if tried { // what is tried decides nothing
		return nil
	}
	return err
}

// askRuled asks the rules about everybody who could read what the client sends into a room.
func (c *Client) askRuled(ctx context.Context, by *orgrules.Version, room id.RoomID) error {
	members, facts, err := rooms.ReadFacts(ctx, c.call, by, room)
	if err != nil {
		return fmt.Errorf("%w: look at the room for the organisation's rules: %w", core.ErrCannotEncrypt, err)
	}
	known, err := c.known(ctx, members)
	if err != nil {
		return err
	}
	slices.Sort(members)
	var anywhere, questions []rules.Question
	var devices []*trustcache.Device
	mode := c.Env.Policy().Native
	for _, member := range members {
		user := known[member]
		for i := range user.Devices {
			d := &user.Devices[i]
			if trustcache.Native(user, d, mode).Outcome != trustcache.NativeShow || d.UserID == c.User && d.DeviceID == c.device {
				continue
			}
			anywhere = append(anywhere, orgrules.AnyKeyQuestion(c.User, d.UserID, user, d))
			questions, devices = append(questions, orgrules.KeyQuestion(c.User, user, d, facts)), append(devices, d)
		}
	}
	given, err := by.Known(ctx, anywhere)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	n := -1
	out := func() bool { n++; return given[n].Effect != rules.Allow } // it is given nothing, whatever the room
	questions = slices.DeleteFunc(questions, func(rules.Question) bool { return out() })
	n = -1
	devices = slices.DeleteFunc(devices, func(*trustcache.Device) bool { return out() })
	answers, err := by.Ask(ctx, questions)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	log := auditing.BeginFor(c.Env, c.User, c.device, audit.KindNativeSend).InRoom(room, "", 0).Under(by.Policy())
	var refused *core.RuledError
	for i := range answers {
		if answers[i].Effect == rules.Allow {
			continue
		}
		if refused == nil {
			refused = &core.RuledError{Rule: answers[i].Rule, Reason: answers[i].Reason}
		}
		refused.Users = append(refused.Users, devices[i].UserID)
		log.Add(known[devices[i].UserID], devices[i], audit.Refused, "", orgrules.Reason(answers[i]))
	}
	if refused == nil {
		return nil
	}
	refused.Users = slices.Compact(refused.Users)
	if err := log.Append(ctx, c.Env); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return refused
}
