package filter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/strictjson"
)

// A client's filter is written for clear events, and the homeserver has encrypted ones. So
// what goes upstream is wider than the client's filter, and the client's is applied again
// to the clear events (requirement 19.12):
//
//   - Types: m.room.encrypted passes wherever timeline types are limited, and
//     m.room.encryption, m.room.member and m.room.history_visibility pass in timeline and
//     state, because what the proxy may send depends on them (requirements 9.4, 9.5, 20.6).
//     So do the account data of secret storage, key backup and push rules.
//   - Senders, rooms and contains_url are left out upstream and applied by the proxy: state
//     of another sender may encrypt a room. An initial sync keeps rooms and not_rooms, and
//     does not ask for all members: the proxy closes the gap before it by itself, and the
//     client shall not wait for what it did not ask for.
//   - The names of control rooms are left out upstream.
//   - event_fields are left out upstream and applied by the proxy, which always keeps its
//     annotation. event_format is always "client": an event in federation format carries
//     hashes and signatures that a clear event cannot have.
//   - limit, lazy_load_members and everything unknown stay as they are. So a page may hold
//     fewer events of the client's choice than its limit allows.
//
// A filter that cannot be parsed strictly is left to the homeserver, which should refuse
// it; if it does not, the proxy does.

// errFilter means that a filter cannot be parsed.
var errFilter = errors.New("malformed filter")

// Types that must pass a client's filter.
var (
	neededState    = []string{"m.room.encryption", "m.room.history_visibility", "m.room.member"}
	neededTimeline = []string{"m.room.encrypted", "m.room.encryption", "m.room.history_visibility", "m.room.member"}
	neededAccount  = []string{
		"m.secret_storage.default_key", "m.secret_storage.key.*", "m.cross_signing.master",
		"m.cross_signing.self_signing", "m.cross_signing.user_signing", "m.megolm_backup.v1", "m.key_backup", "m.push_rules",
	}
)

// Events is the part of a filter that is applied to events. Nil lists are absent: an
// empty one is different.
type Events struct {
	Types       []string    `json:"types"`
	NotTypes    []string    `json:"not_types"`
	Senders     []id.UserID `json:"senders"`
	NotSenders  []id.UserID `json:"not_senders"`
	Rooms       []id.RoomID `json:"rooms"`
	NotRooms    []id.RoomID `json:"not_rooms"`
	ContainsURL *bool       `json:"contains_url"`
	// UnreadThreads asks, with true, for the numbers of unread messages by thread.
	UnreadThreads jsontext.Value `json:"unread_thread_notifications"`

	only *string // the one type that passes
}

// Filter is a filter as the client made it.
type Filter struct {
	Fields      []string `json:"event_fields"`
	AccountData Events   `json:"account_data"`
	Room        struct {
		Rooms    []id.RoomID `json:"rooms"`
		NotRooms []id.RoomID `json:"not_rooms"`
		State    Events      `json:"state"`
		Timeline Events      `json:"timeline"`
	} `json:"room"`

	Tree Fields // nil: all fields
	// The filters for the homeserver; nil when it is the client's own.
	initial, incremental []byte
}

// Parse parses a filter and makes the wider ones. always are the paths of members that
// no event_fields leave out.
func Parse(raw []byte, always ...[]string) (*Filter, error) {
	if jsontext.Value(raw).Kind() != jsontext.KindBeginObject {
		return nil, errFilter
	}
	f := &Filter{}
	if err := json.Unmarshal(raw, f); err != nil {
		return nil, errFilter
	}
	if f.Fields != nil {
		f.Tree = newFields(f.Fields, always...)
	}
	var err error
	if f.initial, err = widen(raw, true); err != nil {
		return nil, err
	}
	if f.incremental, err = widen(raw, false); err != nil {
		return nil, err
	}
	return f, nil
}

// upstream returns the wider filter; nil when the client's own is wide enough.
func (f *Filter) upstream(initial bool) []byte {
	if initial {
		return f.initial
	}
	return f.incremental
}

// WantsRoom reports whether the client wants anything of a room.
func (f *Filter) WantsRoom(room id.RoomID) bool {
	return f == nil || listed(f.Room.Rooms, f.Room.NotRooms, room)
}

func listed[T comparable](only, not []T, v T) bool {
	return (only == nil || slices.Contains(only, v)) && !slices.Contains(not, v)
}

// Timeline returns the filter of a room's timeline, nil without a filter.
func (f *Filter) Timeline() *Events {
	if f == nil {
		return nil
	}
	return &f.Room.Timeline
}

// State returns the filter of a room's state, nil without a filter.
func (f *Filter) State() *Events {
	if f == nil {
		return nil
	}
	return &f.Room.State
}

// SplitsThreads reports whether the client asks for the numbers of unread messages by thread.
func (f *Filter) SplitsThreads() bool {
	return f != nil && f.Room.Timeline.UnreadThreads.Kind() == jsontext.KindTrue
}

// OfAccountData returns the filter of account data, nil without a filter.
func (f *Filter) OfAccountData() *Events {
	if f == nil {
		return nil
	}
	return &f.AccountData
}

// Event is what a filter looks at of an event.
type Event struct {
	Type, Sender []byte
	HasURL       bool
}

// Passes reports whether an event of a room passes. A nil filter passes everything.
func (f *Events) Passes(room id.RoomID, ev Event) bool {
	if f == nil {
		return true
	}
	switch {
	case !f.PassesType(ev.Type),
		!listed(f.Senders, f.NotSenders, id.UserID(ev.Sender)),
		!listed(f.Rooms, f.NotRooms, room):
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == ev.HasURL
}

// PassesType reports whether a type passes. A nil filter passes everything.
func (f *Events) PassesType(typ []byte) bool {
	if f == nil {
		return true
	}
	t := string(typ)
	if f.only != nil && t != *f.only {
		return false
	}
	is := func(pattern string) bool { return glob(pattern, t) }
	return (f.Types == nil || slices.ContainsFunc(f.Types, is)) && !slices.ContainsFunc(f.NotTypes, is)
}

// glob matches a type against a pattern in which * stands for any characters.
func glob(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// widen returns the filter for the homeserver, nil when nothing must change.
func widen(raw []byte, initial bool) ([]byte, error) {
	filter, err := readMember(raw)
	if err != nil {
		return nil, err
	}
	changed := drop(&filter, "event_fields")
	if string(filter.Get("event_format")) != `"client"` {
		changed = drop(&filter, "event_format") || changed
	}
	account, err := change(&filter, "account_data", func(o *strictjson.Object) (bool, error) { return admit(o, neededAccount) })
	if err != nil {
		return nil, err
	}
	room, err := change(&filter, "room", func(o *strictjson.Object) (bool, error) { return widenRoom(o, initial) })
	if err != nil || !changed && !account && !room {
		return nil, err
	}
	return encodeSorted(filter), nil
}

// change reads a member that is an object, calls by to change it, and writes it back if it
// did.
func change(o *strictjson.Object, name string, by func(*strictjson.Object) (bool, error)) (changed bool, err error) {
	if o.Get(name) == nil {
		return false, nil
	}
	member, err := readMember(o.Get(name))
	if err != nil {
		return false, err
	}
	if changed, err = by(&member); err != nil || !changed {
		return false, err
	}
	*o = o.Set(name, encodeSorted(member))
	return true, nil
}

func widenRoom(o *strictjson.Object, initial bool) (changed bool, err error) {
	if !initial {
		changed = drop(o, "rooms", "not_rooms")
	}
	if changed, err = hideOwn(o, changed); err != nil {
		return false, err
	}
	for _, name := range [...]string{"ephemeral", "account_data"} {
		did, err := change(o, name, func(part *strictjson.Object) (bool, error) { return hideOwn(part, false) })
		if err != nil {
			return false, err
		}
		changed = changed || did
	}
	for name, needed := range map[string][]string{"timeline": neededTimeline, "state": neededState} {
		if initial { // without m.room.member, which is the last
			needed = needed[:len(needed)-1]
		}
		did, err := change(o, name, func(part *strictjson.Object) (bool, error) {
			did, err := admit(part, needed)
			did = drop(part, "senders", "not_senders", "contains_url") || did
			if !initial {
				did = drop(part, "rooms", "not_rooms") || did
			}
			if err != nil {
				return false, err
			}
			return hideOwn(part, did)
		})
		if err != nil {
			return false, err
		}
		changed = changed || did
	}
	return changed, nil
}

// hideOwn takes the names of control rooms out of the lists of rooms: the homeserver has no such rooms.
func hideOwn(o *strictjson.Object, changed bool) (bool, error) {
	for _, name := range [...]string{"rooms", "not_rooms"} {
		list := o.Texts(name)
		kept := slices.DeleteFunc(slices.Clone(list), e2ee.IsControlRoom)
		if len(kept) == len(list) {
			continue
		}
		changed = true
		if err := setList(o, name, append([]string{}, kept...)); err != nil {
			return false, err
		}
	}
	return changed, nil
}

func readMember(raw []byte) (strictjson.Object, error) {
	o, err := strictjson.Parse(raw)
	if err != nil {
		return nil, errFilter
	}
	return o, nil
}

// encodeSorted encodes an object so that equal filters have equal texts.
func encodeSorted(o strictjson.Object) []byte {
	slices.SortFunc(o, func(a, b strictjson.Member) int { return strings.Compare(a.Name, b.Name) })
	return o.Encode()
}

// drop removes members and reports whether there were any.
func drop(o *strictjson.Object, names ...string) bool {
	before := len(*o)
	for _, n := range names {
		*o = o.Without(n)
	}
	return len(*o) < before
}

// admit changes types and not_types so that the needed types (some of them patterns) pass,
// and reports whether it had to. If the filter let nothing pass, only the needed types do.
func admit(o *strictjson.Object, needed []string) (changed bool, err error) {
	var f Events
	if err := unmarshalLists(*o, &f); err != nil {
		return false, err
	}
	if slices.Contains(f.NotTypes, "*") || f.Types != nil && len(f.Types) == 0 {
		*o = o.Without("not_types")
		return true, setList(o, "types", needed)
	}
	kept := slices.DeleteFunc(slices.Clone(f.NotTypes), func(not string) bool {
		return slices.ContainsFunc(needed, func(n string) bool { return glob(not, n) || glob(n, not) })
	})
	if len(kept) < len(f.NotTypes) {
		changed = true
		if err := setList(o, "not_types", kept); err != nil {
			return false, err
		}
	}
	if f.Types == nil {
		return changed, nil
	}
	types := f.Types
	for _, n := range needed {
		// Dendrite on SQLite knows no * in a type. So the needed ones are named themselves.
		if !slices.Contains(types, n) {
			types = append(types, n)
			changed = true
		}
	}
	return changed, setList(o, "types", types)
}

func setList(o *strictjson.Object, name string, list []string) error {
	raw, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode a filter: %w", err)
	}
	*o = o.Set(name, raw)
	return nil
}

func unmarshalLists(o strictjson.Object, f *Events) error {
	for name, list := range map[string]*[]string{"types": &f.Types, "not_types": &f.NotTypes} {
		raw := o.Get(name)
		if raw == nil {
			continue
		}
		if err := json.Unmarshal(raw, list); err != nil {
			return errFilter
		}
	}
	return nil
}
