package e2ee

import (
	"maps"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"
)

// Membership changes that the homeserver has just accepted from a client behind this proxy
// are known to every device here before any list or sync shows them, and whatever could be
// stored of them: a device that is loaded anew a moment later must not believe a list that
// is older, nor must another account's.

const (
	// maxArrivals bounds the invites and joins that are remembered of one room: one request
	// can name many. A removal is always remembered.
	maxArrivals = 1000
	// acceptedFor is how long what was accepted is held against what the homeserver says.
	// Afterwards who was invited may well have declined, and who was removed may be back.
	// Nothing that a sync shows ends it before: that may be older than the change.
	acceptedFor = 10 * time.Second
	// sweepAccepted is how many rooms there are before those are looked for in which nothing
	// counts any more.
	sweepAccepted = 256
)

// acceptedChanges are the latest of all rooms. The zero value has none.
type acceptedChanges struct {
	mu    sync.Mutex
	rooms map[id.RoomID]roomChanges
	sweep int // the number of rooms at which it is swept next
}

// roomChanges are those of one room.
type roomChanges map[id.UserID]accepted

// accepted is a membership change that the homeserver has accepted from a client.
type accepted struct {
	membership string
	at         time.Time
}

func (a accepted) isRecent(now time.Time) bool { return now.Sub(a.at) < acceptedFor }

// record remembers a change that the homeserver has accepted.
func (c *acceptedChanges) record(room id.RoomID, user id.UserID, membership string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := c.rooms[room]
	if len(changes) >= maxArrivals {
		changes.dropOld(now)
	}
	if present(membership) && len(changes) >= maxArrivals {
		delete(changes, user) // what it says of the user is over in any case
		return
	}
	if changes == nil {
		if c.rooms == nil {
			c.rooms = make(map[id.RoomID]roomChanges)
		}
		changes = make(roomChanges)
		c.rooms[room] = changes
	}
	changes[user] = accepted{membership, now}
	if len(c.rooms) < max(c.sweep, sweepAccepted) {
		return
	}
	maps.DeleteFunc(c.rooms, func(_ id.RoomID, changes roomChanges) bool { changes.dropOld(now); return len(changes) == 0 })
	c.sweep = 2 * len(c.rooms)
}

// dropOld forgets what does not count any more.
func (c roomChanges) dropOld(now time.Time) {
	maps.DeleteFunc(c, func(_ id.UserID, a accepted) bool { return !a.isRecent(now) })
}

// inRoom returns the changes of a room that count now.
func (c *acceptedChanges) inRoom(room id.RoomID, now time.Time) roomChanges {
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := c.rooms[room]
	if len(changes) == 0 {
		return nil
	}
	changes.dropOld(now)
	return maps.Clone(changes)
}

// isOutdated reports whether a membership that the homeserver shows is older than what a client
// did since.
func (c *acceptedChanges) isOutdated(room id.RoomID, user id.UserID, membership string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	said, ok := c.rooms[room][user]
	if !ok || !said.isRecent(now) {
		return false
	}
	arrival, departure := roomChanges{user: said}.contradicts(user, membership)
	return arrival || departure
}

// confirm forgets a change that the homeserver shows.
func (c *acceptedChanges) confirm(room id.RoomID, user id.UserID, membership string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes := c.rooms[room]; changes[user].membership == membership {
		delete(changes, user)
	}
}

// hasLeft reports whether a user is not in the room any more.
func (c roomChanges) hasLeft(user id.UserID) bool {
	said, ok := c[user]
	return ok && !present(said.membership)
}

// listsRemoved reports whether a list has somebody who was removed.
func (c roomChanges) listsRemoved(list map[id.UserID]string) bool {
	for user := range c {
		if _, departure := c.contradicts(user, list[user]); departure {
			return true
		}
	}
	return false
}

// contradicts reports whether a membership that the homeserver shows of a user is older than what
// it accepted. arrival and departure say which kind of change it does not know of.
func (c roomChanges) contradicts(user id.UserID, membership string) (arrival, departure bool) {
	said, ok := c[user]
	switch {
	case !ok:
		return false, false
	case present(said.membership):
		return !present(membership) || (said.membership == "join" && membership != "join"), false
	default:
		return false, present(membership)
	}
}

// checkList refuses a list that is out of date.
func (c roomChanges) checkList(list map[id.UserID]string, own id.UserID, last bool) error {
	if err := c.checkOwn(list[own], own, last); err != nil {
		return err
	}
	for user := range c {
		arrival, departure := c.contradicts(user, list[user])
		if departure || (arrival && !last) {
			return errOutdatedList
		}
	}
	return nil
}

// checkOwn refuses a list without the own user. Only a join that the homeserver accepted
// from a client of theirs says that the list lags; otherwise the user was never in the room,
// or has left it or been removed.
func (c roomChanges) checkOwn(listed string, own id.UserID, last bool) error {
	switch {
	case c.hasLeft(own):
		return ErrNotJoined // while the list was asked for
	case listed == "join":
		return nil
	case c[own].membership == "join" && !last:
		return errOutdatedList
	}
	return ErrNotJoined
}
