package rooms

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
)

// Member lists from GET /rooms/{roomId}/members. Homeservers write and read in different
// components, so the list may lag: Dendrite's misses the creator for some time after
// createRoom was answered. A list that contradicts what the homeserver has just accepted is
// fetched again: believing it would leave out somebody who was invited, or give the key to
// somebody who was removed.

// memberFetch collects the membership changes that arrive during a fetch.
type memberFetch struct{ late map[id.UserID]string }

const (
	// maxListings bounds the fetches of a list that is out of date, 4.5 s in all.
	maxListings = 9
	// maxFailedListings bounds the fetches while the homeserver fails, 0.9 s in all:
	// Dendrite 0.15.2 answers 500 right after the own user was removed.
	maxFailedListings = 4
)

// ErrOutdatedList means that the homeserver's list of members is older than what it
// accepted.
var ErrOutdatedList = errors.New("the homeserver's list of the room's members is out of date")

// setMembership applies a membership, also to a fetch in flight.
func (r *room) setMembership(user id.UserID, membership string) {
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

// present reports whether a membership can make somebody a recipient.
func present(membership string) bool { return membership == "join" || membership == "invite" }

// forgetMembers makes the next use fetch the members again; a fetch in flight is discarded.
func (r *room) forgetMembers() {
	r.members, r.loading = nil, nil
	r.narrowed++
}

// memberships returns a copy of the room's member list, fetched if it is not known. It is
// ErrNotJoined if the own user has not joined, and nobody whom this client has just removed
// is listed.
func (rt *Table) memberships(ctx context.Context, roomID id.RoomID) (map[id.UserID]string, error) {
	for listing := 1; ; listing++ {
		members, err := rt.ListMembers(ctx, roomID, listing == maxListings)
		again := errors.Is(err, ErrOutdatedList) && listing < maxListings ||
			wire.Status(err) == http.StatusInternalServerError && listing < maxFailedListings
		if !again {
			return members, err
		}
		if err := backoff.Wait(ctx, core.ListPauses().After(listing)); err != nil {
			return nil, err
		}
	}
}

// ListMembers is memberships with one request at most. An outdated list is an error; the
// last try accepts one that only misses arrivals, since invites may fail silently.
func (rt *Table) ListMembers(ctx context.Context, roomID id.RoomID, last bool) (map[id.UserID]string, error) {
	rt.Mu.Lock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		rt.Mu.Unlock()
		return nil, err
	}
	said := rt.shared.accepted.inRoom(roomID, rt.Env.Now())
	if said.hasLeft(rt.Account.User) {
		rt.Mu.Unlock()
		return nil, core.ErrNotJoined // also if a list says otherwise: it may be older
	}
	again := !r.recheck.IsZero() && !rt.Env.Now().Before(r.recheck)
	if again {
		r.recheck = time.Time{}
	}
	if r.members != nil && (again || said.listsRemoved(r.members)) {
		r.forgetMembers() // removed by another client, what this device has not seen yet, or back since
	}
	if r.members != nil {
		defer rt.Mu.Unlock()
		if r.members[rt.Account.User] != "join" {
			return nil, core.ErrNotJoined
		}
		rt.shared.lists.used(rt, roomID)
		return maps.Clone(r.members), nil
	}
	if r.loading == nil {
		r.loading = &memberFetch{late: make(map[id.UserID]string)}
	}
	fetch := r.loading // shared by all who fetch at the same time
	rt.Mu.Unlock()

	members, err := rt.fetchMembers(ctx, roomID)
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	if err == nil && r.loading == fetch {
		maps.Copy(members, fetch.late)
		err = rt.shared.accepted.inRoom(roomID, rt.Env.Now()).checkList(members, rt.Account.User, last)
	}
	switch {
	case err != nil:
		if r.loading == fetch {
			r.loading = nil
		}
		return nil, err
	case rt.known[roomID] == r && r.members != nil: // another fetch was quicker
	case rt.known[roomID] != r || r.loading != fetch: // the fetched list may be outdated
		return nil, core.ErrRoomChanged
	default:
		r.members, r.loading = members, nil
		rt.shared.accepted.confirm(roomID, rt.Account.User, "join") // a later list without it is not outdated
		rt.shared.lists.loaded(rt, roomID, len(members))
	}
	return maps.Clone(r.members), nil
}

// fetchMembers requests a room's members.
func (rt *Table) fetchMembers(ctx context.Context, roomID id.RoomID) (map[id.UserID]string, error) {
	return readMembers(ctx, rt.Call, roomID)
}

// Caller sends a request to the homeserver in somebody's name.
type Caller func(context.Context, wire.Request) error

// ReadRecipients returns the users that an event in a room is encrypted for, as the homeserver
// shows them now: for somebody whose syncs are not read.
func ReadRecipients(ctx context.Context, call Caller, roomID id.RoomID) ([]id.UserID, error) {
	content, err := readVisibility(ctx, call, roomID)
	if err != nil {
		return nil, err
	}
	members, err := readMembers(ctx, call, roomID)
	if err != nil {
		return nil, err
	}
	return recipients(members, knownVisibility(visibilityOf(content))), nil
}

func readMembers(ctx context.Context, call Caller, roomID id.RoomID) (map[id.UserID]string, error) {
	var resp struct {
		Chunk []struct {
			StateKey id.UserID `json:"state_key"`
			Content  struct {
				Membership string `json:"membership"`
			} `json:"content"`
		} `json:"chunk"`
	}
	err := call(ctx, wire.Request{
		Op: "read the room's members", Method: http.MethodGet,
		Path:  mautrix.ClientURLPath{"v3", "rooms", roomID, "members"},
		Query: map[string]string{"not_membership": "leave"}, Result: &resp, Large: true,
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
