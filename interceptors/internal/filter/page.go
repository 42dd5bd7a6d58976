package filter

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/internal/strictjson"
)

// A page of a room's history has a filter without rooms of its own (RoomEventFilter), which
// is widened like the timeline's of a sync, with these differences:
//
//   - Senders go up: encryption does not hide them, and nothing else depends on what a page
//     leaves out. So do limit, related_by_senders, related_by_rel_types and the unstable
//     filters by relation (MSC3874): a relation stands in clear, and that in clear counts.
//   - Types with a * do not go up. Homeservers understand them in different ways: Synapse only
//     at the end of a type, Dendrite on SQLite not at all.

// neededPage are the types that must pass the filter of a page.
var neededPage = []string{"m.room.encrypted", "m.room.encryption"}

// Page is the filter of a page of a room's history.
type Page struct {
	// Shown is applied to the clear events.
	Shown *Filter
	// first, next and whole are the filters for the homeserver.
	first, next, whole string
}

// ParsePage parses such a filter, which may have been left out. With state it is applied to the
// room's state on the page too, as GET /context does.
func ParsePage(param string, state bool) (*Page, error) {
	if len(param) > maxFilter || jsontext.Value(param).Kind() != jsontext.KindBeginObject {
		return nil, errFilter
	}
	p := &Page{Shown: &Filter{}}
	if err := json.Unmarshal([]byte(param), &p.Shown.Room.Timeline); err != nil {
		return nil, errFilter
	}
	if state {
		p.Shown.Room.State = p.Shown.Room.Timeline
	}
	o, err := readMember([]byte(param))
	if err != nil {
		return nil, err
	}
	if string(o.Get("event_format")) != `"client"` {
		drop(&o, "event_format")
	}
	drop(&o, "contains_url")
	if _, err := admit(&o, neededPage); err != nil {
		return nil, err
	}
	if err := dropGlobs(&o); err != nil {
		return nil, err
	}
	p.first = string(encodeSorted(o))
	if string(o.Get("lazy_load_members")) == "true" {
		o = o.Set("include_redundant_members", []byte("true"))
	}
	p.next = string(encodeSorted(o))
	drop(&o, "types", "not_types", "senders", "not_senders")
	p.whole = string(encodeSorted(o))
	return p, nil
}

// OfType returns the filter that only events of one type pass, whatever * is in it.
func OfType(eventType string) *Filter {
	f := &Filter{}
	f.Room.Timeline.only = &eventType
	return f
}

// First returns the filter for the page that the client asked for.
func (p *Page) First() string { return p.first }

// Next returns the filter for a page behind that, when nothing of those before is shown: also
// members that an earlier page had are needed.
func (p *Page) Next() string { return p.next }

// Whole returns a filter that does not keep any event from a page.
func (p *Page) Whole() string { return p.whole }

// Nothing reports whether nothing passes the filter.
func (f *Events) Nothing() bool {
	return f.Types != nil && len(f.Types) == 0 || slices.Contains(f.NotTypes, "*") || f.Senders != nil && len(f.Senders) == 0
}

// dropGlobs removes types with a *, and all limits on types if one of those that shall pass has
// one.
func dropGlobs(o *strictjson.Object) error {
	var f Events
	if err := unmarshalLists(*o, &f); err != nil {
		return err
	}
	isGlob := func(t string) bool { return strings.Contains(t, "*") }
	if slices.ContainsFunc(f.Types, isGlob) {
		drop(o, "types")
	}
	if !slices.ContainsFunc(f.NotTypes, isGlob) {
		return nil
	}
	return setList(o, "not_types", slices.DeleteFunc(f.NotTypes, isGlob))
}
