package interceptors

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/turns"
)

// An invitation by e-mail or telephone names no user, and is another one each time: another message
// to the person, and another event. Rules of this file, which holds among replicas:
//   - Before it goes to the homeserver it is stored, with such invitations of the user that are in the
//     room already. A user makes them one after the other in a room.
//   - When it is made again, it was done if there is one that is not among those. One that came
//     after a later request had begun is that one's.
//   - An address that belongs to a user is an invitation of that user, which is the same the second time.

const (
	typeMailInvite = "m.room.third_party_invite"
	// maxRoomState is how much of a room's state is read for it, in bytes.
	maxRoomState = 128 << 20
)

// mailTurns let one invitation of a user into a room after the other.
type mailTurns struct{ turns.Turns[claimedRoom] }

// inviteByMail makes an invitation that names no user, unless that was done.
func (m *mailTurns) inviteByMail(x *Exchange, room id.RoomID, raw []byte) error {
	ctx, user := x.Request.Context(), x.Identity.UserID
	give, err := m.Take(ctx, claimedRoom{user, room})
	if err != nil {
		return err
	}
	defer give()
	all, err := x.Devices.Intents(ctx, user)
	if err != nil {
		return engineerr.For(fmt.Errorf("look for an invitation that may have been made: %w", err))
	}
	in := e2ee.Intent{Request: x.RequestID, Said: x.Devices.HashIntent("", []byte(typeMailInvite+" "+room))}
	now, readable, err := mailInvites(x, room)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, func(one e2ee.Intent) bool { return one.Request == in.Request && one.Said == in.Said }); i >= 0 {
		in.Before = all[i].Before
		for try := 1; readable; try++ {
			if mailInvited(now, all, in) {
				return x.WriteJSON(struct{}{})
			}
			if try == looks {
				break
			}
			select { // it may be in the making
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(lookEvery):
			}
			if now, readable, err = mailInvites(x, room); err != nil {
				return err
			}
		}
	}
	in.Before, in.MadeAt = now, time.Now()
	if readable { // else the homeserver refuses it too
		if err := x.Devices.PutIntent(ctx, user, in); err != nil {
			return engineerr.For(fmt.Errorf("store that an invitation will be made: %w", err))
		}
	}
	x.PutBack(raw)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusBadRequest && resp.StatusCode < http.StatusInternalServerError {
		if err := x.Devices.DropIntent(context.WithoutCancel(ctx), user, in.Request); err != nil {
			zerolog.Ctx(ctx).Warn().Err(err).Msg("Failed to delete that an invitation would be made")
		}
	}
	return x.Upstream.Relay(x, resp)
}

// mailInvited reports whether one of the invitations that are there now is that of a request that is
// made again.
func mailInvited(now []uint64, all []e2ee.Intent, in e2ee.Intent) bool {
	return slices.ContainsFunc(now, func(event uint64) bool {
		if _, before := slices.BinarySearch(in.Before, event); before {
			return false
		}
		for i := range all {
			if one := &all[i]; one.Said == in.Said && one.Request != in.Request && !one.Left {
				if _, before := slices.BinarySearch(one.Before, event); !before {
					return false
				}
			}
		}
		return true
	})
}

// mailInvites returns the hashes of the request's user's invitations in a room that name no user, in
// order; readable is false where the homeserver does not show the user the room.
func mailInvites(x *Exchange, room id.RoomID) (found []uint64, readable bool, err error) {
	asking := *x
	asking.Request = x.Request.Clone(x.Request.Context())
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	resp, err := x.Upstream.Do(&asking, Change{
		Method: http.MethodGet, Pattern: "/_matrix/client/v3/rooms/{roomId}/state", Params: map[string]string{"roomId": room.String()},
		Query: exchange.IdentityQuery(x.Request.URL.Query()),
	})
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, false, apierr.FromResponse(resp)
	case resp.StatusCode >= http.StatusInternalServerError:
		return nil, false, apierr.Unreachable(fmt.Errorf("read the state of a room: status %d", resp.StatusCode))
	case resp.StatusCode != http.StatusOK:
		return nil, false, nil
	}
	dec := jsontext.NewDecoder(io.LimitReader(resp.Body, maxRoomState))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != jsontext.KindBeginArray {
		return nil, false, apierr.Unreachable(fmt.Errorf("read the state of a room: no list: %w", err))
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		raw, err := dec.ReadValue()
		if err != nil {
			return nil, false, apierr.Unreachable(fmt.Errorf("read the state of a room: %w", err))
		}
		var e struct {
			Type   string     `json:"type"`
			Sender id.UserID  `json:"sender"`
			ID     id.EventID `json:"event_id"`
		}
		if json.Unmarshal(raw, &e) == nil && e.Type == typeMailInvite && e.Sender == x.Identity.UserID {
			found = append(found, x.Devices.HashJoined(id.RoomID(e.ID)))
		}
	}
	slices.Sort(found)
	return found, true, nil
}
