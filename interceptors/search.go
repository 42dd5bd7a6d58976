package interceptors

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/parallel"
)

// POST search. The homeserver finds nothing in encrypted rooms, and would learn what a
// person looks for there. So a search goes up only for rooms that are known to be plain:
// those that the client names, or else those that the user is in. When no room is left, the
// homeserver is not asked. What was said in the others is found by the account's own index,
// see search_index.go. The answer says where nothing could be searched, see search_note.go.
//
// The homeserver is asked no more by a client that does its own encryption, which can search
// there by itself. It is shown no notice, as elsewhere: it could not open one.

const (
	// maxSearched is how many rooms are looked up for one search; the rest is left out.
	maxSearched = 100
	// searchParallel is how many rooms are looked up at a time.
	searchParallel = 8
	// maxJoined is the largest list of the user's rooms, in bytes.
	maxJoined = 4 << 20
)

// searches holds the handler of searches.
type searches struct {
	rooms *rooms
	// keyWait is how long a search waits for keys of what was found.
	keyWait time.Duration
	// hideNotices reports which users get the part for programs only; nil: nobody.
	hideNotices func(id.UserID) bool
	spools      exchange.Spools
}

// narrow handles [Search], and passes what may be asked to next.
func (s *searches) narrow(next Handler) Handler {
	return func(x *Exchange) error {
		dev, err := x.Device()
		if err != nil {
			return err
		}
		if s.rooms.clearTextAllowed(dev) {
			return next(x)
		}
		raw, err := x.ReadObject()
		if err != nil {
			return err
		}
		asked, err := readSearch(raw)
		if err != nil {
			return err
		}
		if done, err := inControlRoom(x, dev, &asked); err != nil || done {
			return err
		}
		split, err := s.splitByEncryption(x, dev, asked)
		if err != nil {
			return err
		}
		from, err := readSearchPlace(x.Request.URL.Query().Get("next_batch"))
		if err != nil {
			return err
		}
		note := searchNote{
			rooms:  slices.Concat(split.encrypted, split.unsure),
			silent: s.hideNotices != nil && s.hideNotices(x.Identity.UserID) || dev.Mode() == e2ee.ModeForeign || !from.first(),
		}
		if dev.Searches() && (len(note.rooms) > 0 || from.ours) {
			return (&indexSearch{s, x, dev, asked, split, from, note}).serve(next)
		}
		if len(split.plain) == 0 || from.ours {
			return note.answer(x)
		}
		body, err := asked.inRooms(split.plain)
		if err != nil {
			return err
		}
		x.PutBack(body)
		if len(note.rooms) == 0 {
			return next(x)
		}
		noted := *x
		noted.Upstream = &notingUpstream{Upstream: x.Upstream, note: &note, spools: s.spools}
		return next(&noted)
	}
}

// search is the body of a search.
type search struct {
	events, filter jsontext.Value
	// rooms are the rooms that it names, nil when it names none; not are those that it
	// excludes.
	rooms, not []string
	// index is what it says for the index.
	index indexQuery
}

// readSearch parses a body. Room events are the only category that there is; another one
// could hold words of unknown purpose.
func readSearch(raw []byte) (search, error) {
	var out search
	body, err := exchange.ParseObject(raw)
	if err != nil {
		return out, err
	}
	categories := body.Object("search_categories")
	events := categories.Object("room_events")
	if events == nil {
		return out, apierr.MissingParam("search_categories.room_events is missing: nothing else can be searched.")
	}
	out.events, out.filter = jsontext.Value(categories.Get("room_events")), jsontext.Value(events.Get("filter"))
	if out.filter == nil || out.filter.Kind() == jsontext.KindNull {
		out.filter = jsontext.Value(`{}`)
	}
	filter, err := exchange.ParseObject(out.filter)
	if err != nil {
		return out, apierr.BadJSON("The filter of a search must be an object.")
	}
	for name, to := range map[string]*[]string{"rooms": &out.rooms, "not_rooms": &out.not} {
		if raw := filter.Get(name); raw != nil && json.Unmarshal(raw, to) != nil {
			return out, apierr.BadJSON("The rooms of a filter must be a list of room IDs.")
		}
	}
	out.index, err = readIndexQuery(events, filter)
	return out, err
}

// inRooms returns the same search in some rooms only.
func (s *search) inRooms(rooms []string) ([]byte, error) {
	list, err := json.Marshal(rooms)
	if err != nil {
		return nil, apierr.BadJSON("The rooms of a filter must be a list of room IDs.")
	}
	filter, err := withMember(s.filter, "rooms", list)
	if err != nil {
		return nil, apierr.NotJSON(nil)
	}
	events, err := withMember(s.events, "filter", filter)
	if err != nil {
		return nil, apierr.NotJSON(nil)
	}
	return slices.Concat([]byte(`{"search_categories":{"room_events":`), events, []byte(`}}`)), nil
}

// searchedRooms are the rooms of a search: those known to be plain, those known to be
// encrypted, and those of which that could not be found out.
type searchedRooms struct{ plain, encrypted, unsure []string }

// splitByEncryption divides the rooms.
func (s *searches) splitByEncryption(x *Exchange, dev Device, asked search) (out searchedRooms, err error) {
	rooms := asked.rooms
	if rooms == nil {
		if rooms, err = joinedRooms(x); err != nil {
			return out, err
		}
	}
	var ask []string
	seen := make(map[string]bool, len(rooms))
	for _, room := range rooms {
		switch {
		case seen[room], slices.Contains(asked.not, room), e2ee.IsControlRoom(room):
			continue
		case exchange.ValidRoom(room) && dev.KnownEncrypted(id.RoomID(room)):
			out.encrypted = append(out.encrypted, room)
		case !exchange.ValidRoom(room), len(ask) == maxSearched:
			out.unsure = append(out.unsure, room)
		default:
			ask = append(ask, room)
		}
		seen[room] = true
	}
	states, err := s.encryptionOf(x, dev, ask)
	if err != nil {
		return out, err
	}
	for i, room := range ask {
		switch states[i] {
		case e2ee.RoomPlain:
			out.plain = append(out.plain, room)
		case e2ee.RoomEncrypted, e2ee.RoomUnsupported:
			out.encrypted = append(out.encrypted, room)
		case e2ee.RoomUnknown:
			out.unsure = append(out.unsure, room)
		}
	}
	return out, nil
}

// encryptionOf returns for each room whether it is encrypted.
func (s *searches) encryptionOf(x *Exchange, dev Device, rooms []string) ([]e2ee.RoomEncryption, error) {
	states := make([]e2ee.RoomEncryption, len(rooms))
	group, ctx := errgroup.WithContext(x.Request.Context())
	group.SetLimit(searchParallel)
	asking := *x
	asking.Request = x.Request.WithContext(ctx)
	for i, room := range rooms {
		group.Go(parallel.Safe(func() error {
			state, err := s.rooms.encryption(&asking, dev, id.RoomID(room))
			if said, ok := errors.AsType[*apierr.Error](err); ok && said.Status == http.StatusUnauthorized {
				return err // about the client's token, so the client must get it
			}
			if err == nil {
				states[i] = state
			}
			return nil
		}))
	}
	if err := group.Wait(); err != nil {
		return nil, err //nolint:wrapcheck // it is what the client is told
	}
	return states, nil
}

// joinedRooms asks the homeserver for the rooms that the user is in.
func joinedRooms(x *Exchange) ([]string, error) {
	asking := *x
	asking.Request = x.Request.Clone(x.Request.Context())
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	resp, err := x.Upstream.Do(&asking, Change{
		Method: http.MethodGet, Pattern: "/_matrix/client/v3/joined_rooms", Query: exchange.IdentityQuery(x.Request.URL.Query()),
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, apierr.FromResponse(resp)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxJoined))
	if err != nil {
		return nil, apierr.Unread(err)
	}
	var rooms struct {
		Joined []string `json:"joined_rooms"`
	}
	if json.Unmarshal(raw, &rooms) != nil {
		return nil, apierr.Unreachable(errors.New("the list of joined rooms is not readable"))
	}
	return rooms.Joined, nil
}
