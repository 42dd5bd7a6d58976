package e2ee

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
)

// An account with many rooms, and with no client that syncs, is asked to verify somebody: the own
// syncs have no messages, so after one of them there is another request, which has those of rooms
// for few people, without waiting. It begins where the own sync before began, which is
// acknowledged already, and nothing but messages is taken from it. Rooms that are called direct
// come first; with more than listenRooms of them, the requests take turns.

const (
	// listenRooms is how many rooms one request asks for, listenTurns how many requests take turns.
	listenRooms, listenTurns = 64, 8
	// listenEvery is how much time is between two requests at least.
	listenEvery = 15 * time.Second
	// fewMembers is how many people the rooms have at most, where that is known. A room with more
	// messages than loudRoom between two requests is left out until the rooms are looked at again.
	fewMembers, loudRoom = 20, 20
)

// listening is what the requests ask for. The turn of the device's own syncs guards it.
type listening struct {
	turns     []listenTurn
	next      int
	at, found time.Time // when the last request was made, and the rooms were looked for
}

type listenTurn struct {
	rooms []id.RoomID
	since string // where its last own sync began
	at    time.Time
}

// listen asks for messages of small rooms, after an own sync that began at a position.
func (d *Device) listen(ctx context.Context, since string) error {
	if d.listening == nil {
		d.listening = &listening{}
	}
	l, now := d.listening, d.core.Env.Now()
	if now.Sub(l.at) < listenEvery {
		return nil
	}
	l.at = now
	if now.Sub(l.found) >= countedFor {
		rooms, err := d.smallRooms(ctx)
		if err != nil {
			return err
		}
		l.turns, l.next, l.found = nil, 0, now
		for some := range slices.Chunk(rooms[:min(len(rooms), listenTurns*listenRooms)], listenRooms) {
			l.turns = append(l.turns, listenTurn{rooms: some})
		}
	}
	if len(l.turns) == 0 {
		return nil
	}
	turn := &l.turns[l.next%len(l.turns)]
	l.next++
	if len(turn.rooms) == 0 {
		return nil
	}
	from := turn.since
	if from == "" || now.Sub(turn.at) > freshVerifying {
		from = since
	}
	var resp ownSync
	err := d.core.Call(ctx, wire.Request{
		Op: "listen for verifications", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "sync"},
		Query: map[string]string{"filter": listenFilter(turn.rooms), "set_presence": "offline", "timeout": "0", "since": from}, Result: &resp, Large: true,
	})
	if err != nil {
		return err
	}
	turn.since, turn.at = since, now
	turn.rooms = slices.DeleteFunc(turn.rooms, func(room id.RoomID) bool { return resp.Rooms.Join[room].Timeline.Limited })
	d.hearOwn(ctx, resp.Rooms.Join)
	return nil
}

// listenFilter is a filter for the messages of some rooms alone.
func listenFilter(rooms []id.RoomID) string {
	names, err := json.Marshal(rooms)
	if err != nil { // a list of strings always marshals
		names = []byte("[]")
	}
	none := `{"types":[]}`
	return fmt.Sprintf(`{"presence":%s,"account_data":%s,"room":{"rooms":%s,"ephemeral":%s,"account_data":%s,"state":%s,"timeline":{"types":[%s],"limit":%d}}}`,
		none, none, names, none, none, none, verificationTypes, loudRoom)
}

// smallRooms returns the rooms in which others may ask to verify, the likeliest first: those that
// the user's clients call direct, then encrypted ones that have few members or of which that is
// not known.
func (d *Device) smallRooms(ctx context.Context) ([]id.RoomID, error) {
	all, err := d.core.Env.Store.Rooms(ctx, d.acct.Row, d.core.RowID, nil)
	if err != nil {
		return nil, fmt.Errorf("look for small rooms: %w", err)
	}
	direct, err := d.directRooms(ctx)
	if err != nil {
		return nil, err
	}
	type candidate struct {
		room    id.RoomID
		members int
	}
	var rest []candidate
	for room := range all {
		members := d.rooms.KnownMembers(room)
		if _, is := slices.BinarySearch(direct, room); is || members > fewMembers || all[room].Algorithm == "" {
			continue
		}
		if members == 0 {
			members = fewMembers + 1 // behind those that are known to be small
		}
		rest = append(rest, candidate{room, members})
	}
	slices.SortFunc(rest, func(a, b candidate) int {
		return cmp.Or(a.members-b.members, strings.Compare(string(a.room), string(b.room)))
	})
	for _, c := range rest {
		direct = append(direct, c.room)
	}
	return direct, nil
}

// directRooms returns the rooms that the user's clients call direct, each once and in order.
func (d *Device) directRooms(ctx context.Context) ([]id.RoomID, error) {
	byUser, err := d.directByUser(ctx)
	if err != nil {
		return nil, err
	}
	var out []id.RoomID
	for _, rooms := range byUser {
		out = append(out, rooms...)
	}
	out = slices.DeleteFunc(out, func(room id.RoomID) bool { return len(room) > wire.MaxIDLength })
	slices.Sort(out)
	return slices.Compact(out), nil
}
