package e2ee

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
)

// The list of a room's members, as GET /rooms/{roomId}/members gives it. Homeservers write
// in one part and read in another, which may lag: Dendrite's list misses the creator of a
// room for some time after createRoom was answered. A list that contradicts what the
// homeserver has just accepted is asked for again: believing it would leave out somebody
// who was invited, or give the key to somebody who was removed.

// memberFetch collects the changes of a room's members that arrive while they are fetched.
type memberFetch struct{ late map[id.UserID]string }

// accepted is a membership change that the homeserver has accepted from the client.
type accepted struct {
	membership string
	at         time.Time
}

const (
	// maxArrivals bounds the invites and joins that are remembered of one room: one request
	// can name many. A removal is always remembered.
	maxArrivals = 1000
	// acceptedCounts is how long what was accepted is held against what the homeserver says.
	// Afterwards who was invited may well have declined, and who was removed may be back.
	// Nothing that a sync shows ends it before: that may be older than the change.
	acceptedCounts = 10 * time.Second
	// maxListings bounds how often a list that is too old is asked for again, in 4.5 s at most.
	maxListings = 9
)

// errOutdatedList says that the homeserver's list of members is older than what it accepted.
var errOutdatedList = errors.New("the homeserver's list of the room's members is out of date")

// note takes a membership.
func (r *room) note(user id.UserID, membership string) {
	if membership == "ban" {
		membership = "leave"
	}
	if r.members != nil {
		r.members[user] = membership
	}
	if r.loading != nil {
		r.loading.late[user] = membership
	}
}

// accept remembers a change that the homeserver has accepted.
func (r *room) accept(user id.UserID, membership string, now time.Time) {
	if len(r.accepted) >= maxArrivals {
		maps.DeleteFunc(r.accepted, func(_ id.UserID, a accepted) bool { return !a.counts(now) })
	}
	if present(membership) && len(r.accepted) >= maxArrivals {
		delete(r.accepted, user) // what it says of the user is over in any case
		return
	}
	if r.accepted == nil {
		r.accepted = make(map[id.UserID]accepted)
	}
	r.accepted[user] = accepted{membership, now}
}

func (a accepted) counts(now time.Time) bool { return now.Sub(a.at) < acceptedCounts }

// present reports whether a membership may make somebody a recipient.
func present(membership string) bool { return membership == "join" || membership == "invite" }

// deniedBy reports whether a membership that the homeserver shows is older than the change.
// arrival and departure say which kind of change it does not know of.
func (a accepted) deniedBy(membership string, now time.Time) (arrival, departure bool) {
	switch {
	case !a.counts(now):
		return false, false
	case present(a.membership):
		return !present(membership) || (a.membership == "join" && membership != "join"), false
	default:
		return false, present(membership)
	}
}

// forgetMembers has the members fetched again; what is on its way now may be too old.
func (r *room) forgetMembers() {
	r.members, r.loading = nil, nil
	r.narrowed++
}

// memberships gives a copy of the room's membership list, fetched if it is not known. The
// own user has joined by it, or it is ErrNotJoined, and nobody whom this client has just
// removed is in it.
func (rt *roomTable) memberships(ctx context.Context, roomID id.RoomID) (map[id.UserID]string, error) {
	for listing := 1; ; listing++ {
		members, err := rt.host.listMembers(ctx, roomID, listing == maxListings)
		if !errors.Is(err, errOutdatedList) || listing == maxListings {
			return members, err
		}
		if err := waitFor(ctx, listPauses().After(listing)); err != nil {
			return nil, err
		}
	}
}

// listMembers is memberships with one request at most. A list that is out of date is an
// error; last takes one that only misses arrivals, since invites may fail silently.
func (d *Device) listMembers(ctx context.Context, roomID id.RoomID, last bool) (map[id.UserID]string, error) {
	d.mu.Lock()
	r, err := d.roomState(ctx, roomID)
	if err != nil {
		d.mu.Unlock()
		return nil, err
	}
	if r.members != nil {
		defer d.mu.Unlock()
		if r.members[d.acct.user] != "join" {
			return nil, ErrNotJoined
		}
		d.eng.lists.used(d, roomID)
		return maps.Clone(r.members), nil
	}
	if r.loading == nil {
		r.loading = &memberFetch{late: make(map[id.UserID]string)}
	}
	fetch := r.loading // of the first of those who fetch at the same time
	d.mu.Unlock()

	members, err := d.fetchMembers(ctx, roomID)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && r.loading == fetch {
		maps.Copy(members, fetch.late)
		err = r.checkList(members, d.acct.user, d.eng.now(), last)
	}
	switch {
	case err != nil:
		if r.loading == fetch {
			r.loading = nil
		}
		return nil, err
	case d.roomTable.known[roomID] == r && r.members != nil: // somebody else was quicker
	case d.roomTable.known[roomID] != r || r.loading != fetch: // what was fetched may be too old
		return nil, errRoomChanged
	default:
		r.members, r.loading = members, nil
		if r.accepted[d.acct.user].membership == "join" {
			delete(r.accepted, d.acct.user) // it shows: a list without it is no older one
		}
		d.eng.lists.loaded(d, roomID, len(members))
	}
	return maps.Clone(r.members), nil
}

// checkList refuses a list that is out of date.
func (r *room) checkList(list map[id.UserID]string, own id.UserID, now time.Time, last bool) error {
	if err := r.checkOwn(list[own], own, now, last); err != nil {
		return err
	}
	for user, a := range r.accepted {
		arrival, departure := a.deniedBy(list[user], now)
		if departure || (arrival && !last) {
			return errOutdatedList
		}
	}
	return nil
}

// checkOwn refuses a list without the own user. Only a join that the homeserver accepted
// from this client says that the list lags; otherwise the user was never in the room, or
// has left it or been removed.
func (r *room) checkOwn(listed string, own id.UserID, now time.Time, last bool) error {
	said, ok := r.accepted[own]
	switch {
	case ok && said.counts(now) && !present(said.membership):
		return ErrNotJoined // whatever the list says: it may be older
	case listed == "join":
		return nil
	case ok && said.counts(now) && said.membership == "join" && !last:
		return errOutdatedList
	}
	return ErrNotJoined
}

// fetchMembers asks the homeserver for a room's members.
func (rt *roomTable) fetchMembers(ctx context.Context, roomID id.RoomID) (map[id.UserID]string, error) {
	var resp struct {
		Chunk []struct {
			StateKey id.UserID `json:"state_key"`
			Content  struct {
				Membership string `json:"membership"`
			} `json:"content"`
		} `json:"chunk"`
	}
	err := rt.call(ctx, request{
		op: "read the room's members", method: http.MethodGet,
		path:  mautrix.ClientURLPath{"v3", "rooms", roomID, "members"},
		query: map[string]string{"not_membership": "leave"}, result: &resp, large: true,
	})
	if err != nil {
		return nil, err
	}
	members := make(map[id.UserID]string, len(resp.Chunk))
	for _, ev := range resp.Chunk {
		members[ev.StateKey] = ev.Content.Membership
	}
	return members, nil
}
