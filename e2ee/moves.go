package e2ee

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
)

// What a client has been shown of the proxy's is known by the homeserver's tokens alone, so an
// answer has something of the proxy's only where its token is another than the request's, and
// one that no client was given before. When nothing happens at the homeserver its token stands
// still, and some clients drop an answer whose token they know. Then the proxy has it move: it
// sends the device an empty to-device message, from the device itself, which nobody is shown.

// maxTold is of how many tokens it is known that the device's client was given them.
const maxTold = 6

const (
	// moveEvery is how often a device's token is moved at most, after the first movesAtOnce.
	moveEvery   = time.Second
	movesAtOnce = 5
	// moveTakes is how long a move may take. Meanwhile no other is made from the same token.
	moveTakes = 2 * time.Second
)

// errNotMoved means that the token is not moved at the moment.
var errNotMoved = errors.New("the homeserver's token was moved a moment ago, or does not move")

// moves are those of a device's token. The device's lock guards it.
type moves struct {
	told [maxTold]uint64 // by digest, the newest first

	allowed  time.Time // when one more is, less what may be made at once
	from     uint64    // the last was made from it
	at       time.Time
	waits    bool // that one was not seen yet
	failures backoff.Pauses
	retry    time.Time // no sooner, after a failure
}

// tokenDigest returns what stands for a token.
func tokenDigest(token string) uint64 {
	sum := sha256.Sum256([]byte(token))
	return binary.BigEndian.Uint64(sum[:])
}

// tells records that a client is given a token, and reports whether one was before.
func (c *clientState) tells(token string) (before bool) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if before = c.wasTold(token); !before {
		copy(c.moves.told[1:], c.moves.told[:])
		c.moves.told[0] = tokenDigest(token)
	}
	return before
}

// wasTold reports whether a client was given a token. The caller holds mu.
func (c *clientState) wasTold(token string) bool {
	return slices.Contains(c.moves.told[:], tokenDigest(token))
}

// moveIn returns how long no move may be made from a token.
func (c *clientState) moveIn(from string) time.Duration {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	m, now := &c.moves, c.Env.Now()
	wait := max(m.allowed.Sub(now), m.retry.Sub(now), 0)
	if m.waits && m.from == tokenDigest(from) {
		wait = max(wait, m.at.Add(moveTakes).Sub(now))
	}
	return wait
}

// beginMove records that a move is made, if one may be.
func (c *clientState) beginMove(from string) error {
	if c.moveIn(from) > 0 {
		return errNotMoved
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	m, now := &c.moves, c.Env.Now()
	if first := now.Add(-(movesAtOnce - 1) * moveEvery); m.allowed.Before(first) {
		m.allowed = first
	}
	m.allowed = m.allowed.Add(moveEvery)
	m.from, m.at, m.waits = tokenDigest(from), now, true
	return nil
}

// moveFailed records that the homeserver did not do it, or that its token stood still.
func (c *clientState) moveFailed(err error) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	m := &c.moves
	m.waits = false
	m.retry = c.Env.Now().Add(core.PauseAfter(err, m.failures.Next(core.MovePauses()), core.MovePauses()))
}

// moved records that the message has come. The caller holds mu.
func (c *clientState) moved() {
	if c.moves.waits {
		c.moves.waits = false
		c.moves.failures.Reset()
		c.moves.retry = time.Time{}
	}
}

// News reports whether there is something for the client that its answer may have only with
// another token than the client has.
func (s *ClientSync) News(ctx context.Context) (bool, error) {
	pending, inbox, err := s.load(ctx)
	if err != nil {
		return false, err
	}
	due, err := s.d.late.Due(ctx)
	if err != nil {
		return false, err
	}
	return s.news(ctx, s.since, pending, inbox, due)
}

// news is News for a client that has got what came with an answer that ended with a token.
func (s *ClientSync) news(ctx context.Context, has string, pending []store.PendingEvent, inbox []store.InboxItem, due []store.PendingEvent) (bool, error) {
	got := func(at string) bool { return at != "" && at == has }
	if slices.ContainsFunc(pending, func(p store.PendingEvent) bool { return !got(p.DeliveredAt) }) ||
		slices.ContainsFunc(inbox, func(i store.InboxItem) bool { return !got(i.DeliveredAt) }) ||
		slices.ContainsFunc(due, func(p store.PendingEvent) bool { return !got(p.PlacedAt) }) {
		return true, nil
	}
	if waiting, err := s.d.shown.Waiting(ctx, s.since); err != nil || waiting {
		return waiting, err
	}
	return s.d.acct.control.Waiting(ctx, s.d.core, s.token)
}

// Stands reports whether an answer that ends with a token cannot have all that there is for the
// client: it is the client's own, or was given to it before, with less.
func (s *ClientSync) Stands(ctx context.Context, next string) (bool, error) {
	if next == s.since {
		return s.News(ctx)
	}
	s.d.core.Mu.Lock()
	told := s.d.clientState.wasTold(next)
	s.d.core.Mu.Unlock()
	if !told {
		return false, nil
	}
	pending, inbox, err := s.load(ctx)
	if err != nil {
		return false, err
	}
	due, err := s.d.late.Due(ctx)
	if err != nil {
		return false, err
	}
	kept := len(pending) + len(inbox) + len(due)
	if pending, inbox, due = onlyWith(next, pending, inbox, due); len(pending)+len(inbox)+len(due) < kept {
		return true, nil
	}
	if stands, err := s.d.shown.Stands(ctx, s.since, next); err != nil || stands {
		return stands, err
	}
	return s.d.acct.control.Waiting(ctx, s.d.core, next)
}

// onlyWith leaves what was shown with an answer that ended with a token.
func onlyWith(next string, pending []store.PendingEvent, inbox []store.InboxItem, due []store.PendingEvent) (_ []store.PendingEvent, _ []store.InboxItem, _ []store.PendingEvent) {
	return slices.DeleteFunc(pending, func(p store.PendingEvent) bool { return p.DeliveredAt != next }),
		slices.DeleteFunc(inbox, func(i store.InboxItem) bool { return i.DeliveredAt != next }),
		slices.DeleteFunc(due, func(p store.PendingEvent) bool { return p.PlacedAt != next })
}

// MoveIn returns how long the homeserver's token cannot be moved; zero when it can be now.
func (s *ClientSync) MoveIn() time.Duration { return s.d.clientState.moveIn(s.since) }

// Stood records that the token has not moved although it should have.
func (s *ClientSync) Stood() { s.d.clientState.moveFailed(errNotMoved) }

// Move has the homeserver's token move, so that a sync that waits there ends.
func (s *ClientSync) Move(ctx context.Context) error {
	to := map[id.DeviceID]any{s.d.core.ID: struct{}{}}
	return s.d.clientState.move(ctx, s.since, wire.Request{
		Op: "move the token of syncs", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", wire.TypeMoved, rand.Text()},
		Body: map[string]any{"messages": map[id.UserID]any{s.d.acct.User: to}},
	})
}

// move makes a move, if one may be made.
func (c *clientState) move(ctx context.Context, from string, r wire.Request) error {
	if err := c.beginMove(from); err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, moveTakes)
	defer cancel()
	err := c.Call(bound, r)
	if err != nil && ctx.Err() == nil { // else the client has gone
		c.moveFailed(err)
	}
	return err
}

// ClientEvents is a request of the client for events, the old way to sync, which is told of the
// control room only.
type ClientEvents struct {
	d       *Device
	from    string
	arrived context.Context //nolint:containedctx // as a channel would be
}

// BeginEvents is called before a request for the events from a token goes to the homeserver.
func (d *Device) BeginEvents(from string) *ClientEvents {
	return &ClientEvents{d, from, d.clientState.arrivals()}
}

// Arrived is [ClientSync.Arrived], and so are those that follow.
func (e *ClientEvents) Arrived() context.Context { return e.arrived }

// Leaving is described at Arrived.
func (e *ClientEvents) Leaving() bool { return e.d.acct.tenure.IsLeaving() }

// News is described at Arrived.
func (e *ClientEvents) News(ctx context.Context) (bool, error) {
	return e.d.acct.control.Waiting(ctx, e.d.core, e.from)
}

// MoveIn is described at Arrived.
func (e *ClientEvents) MoveIn() time.Duration { return e.d.clientState.moveIn(e.from) }

// Stood is described at Arrived.
func (e *ClientEvents) Stood() { e.d.clientState.moveFailed(errNotMoved) }

// Move is described at Arrived. The tokens of events do not count to-device messages; they count
// account data.
func (e *ClientEvents) Move(ctx context.Context) error {
	return e.d.clientState.move(ctx, e.from, wire.Request{
		Op: "move the token of events", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "user", e.d.acct.User, "account_data", wire.TypeMoved},
		Body: struct{}{},
	})
}
