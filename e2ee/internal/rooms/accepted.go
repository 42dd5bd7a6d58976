package rooms

import (
	"maps"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// Membership changes that the homeserver has just accepted from a client of this proxy. All
// devices, also those of other accounts, know them before a member list or a sync shows
// them, and also if they could not be stored: an older list must not be believed.

const (
	// maxArrivals bounds the invites and joins that are remembered of one room: one request
	// can name many. A removal is always remembered.
	maxArrivals = 1000
	// acceptedFor is how long an accepted change overrules what the homeserver shows. After
	// that an invite may have been declined and a removed user may be back. What a sync
	// shows does not end it earlier, because a sync may be older than the change.
	acceptedFor = 10 * time.Second
	// sweepAccepted is the number of rooms from which on rooms without recent changes are
	// removed.
	sweepAccepted = 256
)

// acceptedChanges are the accepted changes of all rooms. The zero value is empty.
type acceptedChanges struct {
	mu    sync.Mutex
	rooms map[id.RoomID]roomChanges
	sweep int // the number of rooms at which old ones are removed next
}

// roomChanges are the accepted changes of one room, the latest of each user.
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
		delete(changes, user) // an older change of this user does not hold any more
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

// dropOld removes the changes that are not recent.
func (c roomChanges) dropOld(now time.Time) {
	maps.DeleteFunc(c, func(_ id.UserID, a accepted) bool { return !a.isRecent(now) })
}

// inRoom returns the recent changes of a room.
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

// isOutdated reports whether a membership that the homeserver shows is older than an
// accepted change.
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

// confirm removes a change once the homeserver shows it.
func (c *acceptedChanges) confirm(room id.RoomID, user id.UserID, membership string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes := c.rooms[room]; changes[user].membership == membership {
		delete(changes, user)
	}
}

// hasLeft reports whether an accepted change removed a user from the room.
func (c roomChanges) hasLeft(user id.UserID) bool {
	said, ok := c[user]
	return ok && !present(said.membership)
}

// listsRemoved reports whether a member list contains a user who was removed.
func (c roomChanges) listsRemoved(list map[id.UserID]string) bool {
	for user := range c {
		if _, departure := c.contradicts(user, list[user]); departure {
			return true
		}
	}
	return false
}

// contradicts reports whether a membership that the homeserver shows is older than the
// accepted change of the user, and whether that change is an arrival or a departure.
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

// checkList returns ErrOutdatedList for a member list that is older than an accepted
// change. The last try (last) may miss arrivals.
func (c roomChanges) checkList(list map[id.UserID]string, own id.UserID, last bool) error {
	if err := c.checkOwn(list[own], own, last); err != nil {
		return err
	}
	for user := range c {
		arrival, departure := c.contradicts(user, list[user])
		if departure || (arrival && !last) {
			return ErrOutdatedList
		}
	}
	return nil
}

// checkOwn refuses a member list without the own user. It is outdated only if the
// homeserver has accepted the user's join; otherwise the user never joined, has left or was
// removed.
func (c roomChanges) checkOwn(listed string, own id.UserID, last bool) error {
	switch {
	case c.hasLeft(own):
		return core.ErrNotJoined // while the list was asked for
	case listed == "join":
		return nil
	case c[own].membership == "join" && !last:
		return ErrOutdatedList
	}
	return core.ErrNotJoined
}

// History visibilities that the homeserver has just accepted from a client of this proxy. All
// devices, also those of other accounts, know them before a sync shows them, and also if they
// could not be stored: what is read or synced meanwhile may be older, and would give the room's
// key to people who are only invited, or say that those who come later may have it.

// acceptedVisibilities are the accepted visibilities of all rooms. The zero value is empty.
type acceptedVisibilities struct {
	mu    sync.Mutex
	rooms map[id.RoomID]acceptedVisibility
	sweep int // the number of rooms at which old ones are removed next
}

// acceptedVisibility is the latest history visibility of a room that was accepted.
type acceptedVisibility struct {
	visibility string
	at         time.Time
}

// record remembers a visibility that the homeserver has accepted.
func (a *acceptedVisibilities) record(room id.RoomID, visibility string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rooms == nil {
		a.rooms = make(map[id.RoomID]acceptedVisibility)
	}
	a.rooms[room] = acceptedVisibility{knownVisibility(visibility), now}
	if len(a.rooms) < max(a.sweep, sweepAccepted) {
		return
	}
	maps.DeleteFunc(a.rooms, func(_ id.RoomID, v acceptedVisibility) bool { return now.Sub(v.at) >= acceptedFor })
	a.sweep = 2 * len(a.rooms)
}

// narrow returns a visibility that a room is shown to have, or the one that was accepted lately
// if fewer people may read by that.
func (a *acceptedVisibilities) narrow(room id.RoomID, shown string, now time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	said, ok := a.rooms[room]
	if !ok || now.Sub(said.at) >= acceptedFor || width(shown) <= width(said.visibility) {
		return shown
	}
	return said.visibility
}

// width orders known history visibilities by how many may read (spec, room history visibility).
func width(visibility string) int {
	return slices.Index([]string{"joined", "invited", "shared", "world_readable"}, visibility)
}
