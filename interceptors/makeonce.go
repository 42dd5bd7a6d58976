package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// Rules of this file:
//   - Before a room is made, it is stored that it will be, with the rooms that the account has joined.
//   - A request that may have been done is one that another replica began under the same name; or the
//     same one of the same device, shortly after the account came here, whose answer nobody got because
//     the replica ended that its client was connected to.
//   - It was done if the account has joined a room since that it has made itself, and that is as the
//     request asks for. A room is the answer to one request only.

const (
	// intentAge is how long after it was begun a client may make a request again.
	intentAge = time.Minute
	// looks is how often it is looked for a room that may be in the making, lookEvery how long after
	// each other.
	looks     = 4
	lookEvery = 500 * time.Millisecond
	// maxNewRooms is among how many rooms that were entered meanwhile it is looked for.
	maxNewRooms = 50
)

var errUnreadable = errors.New("the homeserver does not say which rooms are joined")

// makeRoomOnce makes the room that a client asks for, unless that was done. made is called with it.
func (r *rooms) makeRoomOnce(x *Exchange, body strictjson.Object, raw []byte, made func(context.Context, id.RoomID) error) error {
	ctx, user := x.Request.Context(), x.Identity.UserID
	all, err := x.Devices.Intents(ctx, user)
	if err != nil {
		return engineerr.For(fmt.Errorf("look for requests that may have been done: %w", err))
	}
	in := e2ee.Intent{Request: x.RequestID, Said: x.Devices.HashIntent(x.Identity.DeviceID, raw)}
	now := time.Now()
	if i := begunBefore(all, in, now); i >= 0 {
		in.Request, in.Before, in.Room = all[i].Request, all[i].Before, all[i].Room
		if in.Room == "" {
			if in.Room, err = r.roomMade(x, wantedRoom(body), in, all); err != nil {
				return err
			}
		}
	} else if in.Before, err = joinedBefore(x); err != nil {
		return err
	}
	in.MadeAt = now
	if err := x.Devices.PutIntent(ctx, user, in); err != nil {
		return engineerr.For(fmt.Errorf("store that a room will be made: %w", err))
	}
	if in.Room != "" {
		if err := made(context.WithoutCancel(ctx), in.Room); err != nil {
			return err
		}
		return x.WriteJSON(map[string]id.RoomID{"room_id": in.Room})
	}
	return r.makeRoom(x, in, raw, made)
}

// begunBefore returns which of the intents is the request that is made again; -1 if it is a new one.
func begunBefore(all []e2ee.Intent, in e2ee.Intent, now time.Time) int {
	if i := slices.IndexFunc(all, func(one e2ee.Intent) bool { return one.Request == in.Request }); i >= 0 {
		return i
	}
	return slices.IndexFunc(all, func(one e2ee.Intent) bool {
		return one.Left && one.Room == "" && one.Said == in.Said && now.Sub(one.MadeAt) < intentAge
	})
}

// makeRoom has the homeserver make a room, and stores which it is before the client is told.
func (r *rooms) makeRoom(x *Exchange, in e2ee.Intent, raw []byte, made func(context.Context, id.RoomID) error) error {
	x.PutBack(raw)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	ctx, user := context.WithoutCancel(x.Request.Context()), x.Identity.UserID
	room := exchange.AnswerObject(resp).TextOrEmpty("room_id")
	switch {
	case resp.StatusCode == http.StatusOK && exchange.ValidRoom(room):
		in.Room = id.RoomID(room)
		// The client gets its answer in every case. If the account is lost now, who has it finds the room.
		if err := x.Devices.PutIntent(ctx, user, in); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Failed to store which room was made")
		}
		if err := made(ctx, in.Room); err != nil {
			return err
		}
	case resp.StatusCode < http.StatusInternalServerError:
		if err := x.Devices.DropIntent(ctx, user, in.Request); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Failed to delete that a room would be made")
		}
	}
	return x.Upstream.Relay(x, resp)
}

// joinedBefore returns the hashes of the rooms that the account has joined, in order.
func joinedBefore(x *Exchange) ([]uint64, error) {
	joined, err := joinedRooms(x)
	if err != nil {
		return nil, err
	}
	if joined == nil { // every room would look new
		return nil, apierr.Unreachable(errUnreadable)
	}
	out := make([]uint64, len(joined))
	for i, room := range joined {
		out[i] = x.Devices.HashJoined(id.RoomID(room))
	}
	slices.Sort(out)
	return out, nil
}

// roomMade returns the room that a request has made; empty if it has made none.
func (r *rooms) roomMade(x *Exchange, want roomWish, in e2ee.Intent, all []e2ee.Intent) (id.RoomID, error) {
	taken := make(map[id.RoomID]bool)
	for _, one := range all {
		taken[one.Room] = true
	}
	var partly []id.RoomID
	for try := range looks {
		if try > 0 { // it may be in the making
			select {
			case <-x.Request.Context().Done():
				return "", x.Request.Context().Err()
			case <-time.After(lookEvery):
			}
		}
		joined, err := joinedRooms(x)
		if err != nil {
			return "", err
		}
		partly = nil
		looked := 0
		for _, name := range joined {
			room := id.RoomID(name)
			if _, before := slices.BinarySearch(in.Before, x.Devices.HashJoined(room)); before || taken[room] {
				continue
			}
			if looked++; looked > maxNewRooms {
				break
			}
			switch is, err := want.isMet(x, room); {
			case err != nil:
				return "", err
			case is == roomFits && r.claimed.take(x.Identity.UserID, room):
				return room, nil
			case is == roomFitsPartly:
				partly = append(partly, room)
			case is == roomIsOther:
				taken[room] = true
			}
		}
	}
	if len(partly) == 1 && r.claimed.take(x.Identity.UserID, partly[0]) {
		return partly[0], nil
	}
	return "", nil
}

// claimedRooms are those that were found for a request here, so that none is the answer to two that
// are made again at the same time. The zero value is ready for use.
type claimedRooms struct {
	mu  sync.Mutex
	all map[claimedRoom]time.Time
}

type claimedRoom struct {
	user id.UserID
	room id.RoomID
}

// take reports whether a room was not found before.
func (c *claimedRooms) take(user id.UserID, room id.RoomID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for key, at := range c.all { // what is stored by now
		if now.Sub(at) > 2*intentAge {
			delete(c.all, key)
		}
	}
	key := claimedRoom{user, room}
	if _, ok := c.all[key]; ok {
		return false
	}
	if c.all == nil {
		c.all = make(map[claimedRoom]time.Time)
	}
	c.all[key] = now
	return true
}
