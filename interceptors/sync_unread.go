package interceptors

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/strictjson"
)

// The numbers of unread messages in a sync response. The homeserver's are taken out of each
// joined room and written again at its end, where the room's events have been opened: for
// encrypted rooms with what the engine says of them. What it is told for that is taken from
// the response along with what matters to encryption.

const (
	nameUnread        = "unread_notifications"
	nameUnreadThreads = "unread_thread_notifications"
	typeReceipt       = "m.receipt"
	typePushRules     = "m.push_rules"
	maxEventID        = 255 // bytes
)

// movedUnread are the homeserver's numbers of a room as they came; nil: absent.
type movedUnread struct{ all, threads []byte }

// unreadUpdate takes from a response what matters to the numbers of unread messages.
type unreadUpdate struct {
	known func(id.RoomID) bool // whether a room is known to be encrypted
	split bool                 // the client asks for the numbers by thread
	moved map[id.RoomID]movedUnread

	joined   bool // the current room is a joined one that the client wants
	timeline bool // its events matter
	room     e2ee.UnreadRoom
	events   []e2ee.UnreadEvent
	raw      movedUnread
	receipts *jsonscan.Node
	heads    unreadHead
}

func (u *unreadUpdate) enter(room id.RoomID, joined bool) {
	u.joined, u.room, u.raw = joined && u.known != nil, e2ee.UnreadRoom{RoomID: room}, movedUnread{}
	u.timeline = u.joined && u.known(room)
	u.events = u.events[:0]
}

// leave ends a room. It returns about how many bytes are held of it; zero when nothing is.
func (u *unreadUpdate) leave(to *e2ee.UnreadUpdate, limited bool) int {
	if !u.joined {
		return 0
	}
	u.joined = false
	r := u.room
	r.Limited, r.Timeline = limited, slices.Clone(u.events)
	if u.timeline || len(r.Receipts) > 0 { // of others the homeserver knows everything
		r.Counts, r.Threads = readCounts(u.raw)
		to.Rooms = append(to.Rooms, r)
	}
	if u.moved == nil {
		u.moved = make(map[id.RoomID]movedUnread)
	}
	u.moved[r.RoomID] = u.raw
	return 128 + len(u.raw.all) + 2*len(u.raw.threads) + 16*len(r.Timeline) + 128*(len(r.Relations)+len(r.Receipts)) + 256*len(r.Redacted)
}

// value takes the numbers of a room out, and reads how many have joined it.
func (u *unreadUpdate) value(f *rewrite.Found) error {
	if !u.joined || f.Raw == nil {
		return nil
	}
	switch f.Tag {
	case atUnread:
		u.raw.all = slices.Clone(f.Raw)
		return f.Remove()
	case atUnreadThreads:
		u.raw.threads = slices.Clone(f.Raw)
		return f.Remove()
	}
	if n, err := strconv.Atoi(string(f.Raw)); err == nil && n > 0 {
		u.room.Members = n
	}
	return nil
}

// event takes the events of timelines, the user's receipts and the user's name.
func (u *unreadUpdate) event(e *rewrite.Event, part partOfState, who id.UserID) {
	if !u.joined || e.Raw == nil {
		return
	}
	switch {
	case part == 0 && string(e.Type) == typeReceipt:
		u.addReceipts(e.Raw, who)
		return
	case part == 0:
		return
	}
	own := e.StateKey != nil && string(e.Type) == typeMember && string(jsonscan.Text(e.StateKey)) == string(who)
	joins := own && string(e.Membership) == `"join"`
	if joins {
		name := displayName(e.Raw)
		u.room.Name = &name
	}
	sealed := string(e.Type) == typeEncrypted && e.StateKey == nil
	if part != stateTimeline || !u.timeline && !sealed {
		return
	}
	u.timeline = true
	if ev, to, stays := u.heads.head(e, string(e.Type) == typeRedaction && e.StateKey == nil); ev.Ref != 0 {
		ev.Sealed, ev.Joins = sealed, joins && !stays
		u.room.Redacted = append(u.room.Redacted, u.heads.gone...)
		if to != (e2ee.UnreadRelation{}) {
			if u.room.Relations == nil {
				u.room.Relations = make(map[int]e2ee.UnreadRelation)
			}
			u.room.Relations[len(u.events)] = to
		}
		u.events = append(u.events, ev)
	}
}

func displayName(member []byte) string {
	var e struct {
		Content struct {
			Name any `json:"displayname"`
		} `json:"content"`
	}
	if jsonv2.Unmarshal(member, &e) != nil {
		return ""
	}
	name, _ := e.Content.Name.(string)
	return name
}

// What is looked at of an event in a timeline.
const (
	headTime = iota
	headRedacts
	headContentRedacts
	headRelation
	headRelated
	headMembership
	headBefore
	headID
)

// unreadPaths are where it stands, but for the event's ID.
var unreadPaths = [...]string{
	headTime: "origin_server_ts", headRedacts: "redacts", headContentRedacts: "content/redacts",
	headRelation: "content/m.relates_to/rel_type", headRelated: "content/m.relates_to/event_id",
	headMembership: "unsigned/membership", headBefore: "unsigned/prev_content/membership",
}

// unreadHead reads what matters of one event after the other, and makes nothing for each.
type unreadHead struct {
	names *jsonscan.Node

	event    e2ee.UnreadEvent
	redacts  e2ee.UnreadRelation
	gone     []id.EventID // what it redacts
	stays    bool         // who joined by it had joined before
	threaded bool
	related  []byte
}

// head reads an event of a timeline; stays says that who joined by it had joined before. Only a
// redaction redacts: anybody can write the same into other events.
func (h *unreadHead) head(e *rewrite.Event, redaction bool) (ev e2ee.UnreadEvent, to e2ee.UnreadRelation, stays bool) {
	h.event, h.redacts, h.gone, h.stays, h.threaded, h.related = ev, to, h.gone[:0], false, false, nil
	if !h.noted(e) && h.scan(e.Raw) != nil {
		return ev, to, false // cannot happen: it was scanned before
	}
	return h.read(redaction)
}

// read returns what was taken.
func (h *unreadHead) read(redaction bool) (ev e2ee.UnreadEvent, to e2ee.UnreadRelation, stays bool) {
	if !redaction {
		h.redacts, h.gone = to, h.gone[:0]
	}
	switch to = h.redacts; {
	case to.Redacts || len(h.related) == 0:
	case h.threaded:
		to.Root = id.EventID(h.related)
	default:
		to.About = e2ee.UnreadRef(h.related)
	}
	return h.event, to, h.stays
}

// noted takes what was noted of an event while the response was read, which is all unless
// something is there twice.
func (h *unreadHead) noted(e *rewrite.Event) bool {
	if e.Repeated() {
		return false
	}
	h.take(headID, e.ID())
	for n := range headID {
		h.take(n, e.Inside(n))
	}
	if top := e.Inside(headRedacts); top.At > e.Inside(headContentRedacts).At { // the last one counts
		h.gone = h.gone[:0]
		h.take(headContentRedacts, e.Inside(headContentRedacts))
		h.take(headRedacts, top)
	}
	return true
}

// scan takes them all from the event itself.
func (h *unreadHead) scan(raw []byte) error {
	if h.names == nil {
		h.names = jsonscan.NewNode()
		for n, path := range unreadPaths {
			at := h.names
			for name := range strings.SplitSeq(path, "/") {
				at = at.Down(jsonscan.Key(name))
			}
			at.Report(n, true)
		}
		h.names.Down(jsonscan.Key("event_id")).Report(headID, true)
	}
	return jsonscan.ScanBytes(raw, h.names, jsonscan.Options{}, func(v *jsonscan.Value) error {
		h.take(v.ID, jsonscan.Noted{Count: 1, Kind: v.Kind, Raw: v.Raw})
		return nil
	})
}

func (h *unreadHead) take(n int, at jsonscan.Noted) {
	if at.Count == 0 {
		return
	}
	var text []byte
	if at.Kind == '"' {
		text = jsonscan.Text(at.Raw)
	}
	switch n {
	case headID:
		h.event.Ref = e2ee.UnreadRef(text)
	case headTime:
		h.event.At = secondsOf(at.Raw)
	case headRedacts, headContentRedacts:
		h.redacts.About, h.redacts.Redacts = e2ee.UnreadRef(text), true
		if len(text) > 0 && len(text) <= maxEventID {
			h.gone = append(h.gone, id.EventID(text))
		}
	case headRelation:
		h.threaded = string(text) == "m.thread"
	case headRelated:
		h.related = text
	case headMembership:
		h.event.Outside = string(text) != "join"
	case headBefore:
		h.stays = string(text) == "join"
	}
}

// secondsOf reads a time in milliseconds; zero for what is none.
func secondsOf(raw []byte) uint32 {
	var ms uint64
	for _, c := range raw {
		if c < '0' || c > '9' || ms > math.MaxUint32*1000 {
			return 0
		}
		ms = ms*10 + uint64(c-'0')
	}
	return uint32(min(ms/1000, math.MaxUint32))
}

// addReceipts takes the user's own receipts from m.receipt: a content of events, kinds of
// receipts and users. There may be very many of others.
func (u *unreadUpdate) addReceipts(raw []byte, who id.UserID) {
	if !bytes.Contains(raw, []byte(strings.TrimPrefix(string(who), "@"))) && !bytes.Contains(raw, []byte(`\u`)) {
		return
	}
	if u.receipts == nil {
		u.receipts = jsonscan.NewNode()
		for _, kind := range []string{"m.read", "m.read.private"} {
			u.receipts.Down(jsonscan.Key("content"), jsonscan.Any(), jsonscan.Key(kind), jsonscan.Key(string(who))).Report(1, true)
		}
	}
	_ = jsonscan.ScanBytes(raw, u.receipts, jsonscan.Options{}, func(v *jsonscan.Value) error { // it was scanned before
		var r struct {
			Timestamp int64  `json:"ts"`
			Thread    string `json:"thread_id"`
		}
		event := id.EventID(v.Name(0))
		if json.Unmarshal(v.Raw, &r) == nil && event != "" {
			u.room.Receipts = append(u.room.Receipts, e2ee.UnreadReceipt{Event: event, Thread: r.Thread, Timestamp: r.Timestamp})
		}
		return nil
	})
}

// readCounts reads the homeserver's numbers; nil for those that are not readable.
func readCounts(raw movedUnread) (all *e2ee.UnreadCounts, threads map[id.EventID]e2ee.UnreadCounts) {
	if raw.all != nil && json.Unmarshal(raw.all, &all) != nil {
		all = nil
	}
	if raw.threads != nil && json.Unmarshal(raw.threads, &threads) != nil {
		threads = nil
	}
	return all, threads
}

// unreadAdded writes the numbers at the ends of rooms.
type unreadAdded struct {
	moved map[id.RoomID]movedUnread
	split bool
	in    ClientSync
}

// write writes the members of a room.
func (a *unreadAdded) write(out *bytes.Buffer, room id.RoomID) {
	raw := a.moved[room]
	delete(a.moved, room)
	if counts, differs, known := a.in.Unread(room, a.split); known && differs {
		raw.all = withCounts(raw.all, counts[""])
		raw.threads = withThreads(raw.threads, counts)
	}
	for _, member := range []struct {
		name  string
		value []byte
	}{{`"` + nameUnread + `":`, raw.all}, {`"` + nameUnreadThreads + `":`, raw.threads}} {
		if member.value == nil {
			continue
		}
		if out.Len() > 0 && out.Bytes()[out.Len()-1] != '{' {
			out.WriteByte(',')
		}
		out.WriteString(member.name)
		out.Write(member.value)
	}
}

// withCounts sets the numbers in an object, and keeps what else it has.
func withCounts(raw []byte, c e2ee.UnreadCounts) []byte {
	o, err := strictjson.Parse(raw)
	if err != nil {
		o = nil
	}
	return o.Set("notification_count", json.RawMessage(strconv.Itoa(c.Notifications))).
		Set("highlight_count", json.RawMessage(strconv.Itoa(c.Highlights))).Encode()
}

// withThreads sets the numbers of threads; nil when there are none.
func withThreads(raw []byte, counts map[id.EventID]e2ee.UnreadCounts) []byte {
	o, err := strictjson.Parse(raw)
	if err != nil {
		o = nil
	}
	roots := make([]id.EventID, 0, len(counts))
	for root, c := range counts {
		if root != "" && (o.Get(string(root)) != nil || c != e2ee.UnreadCounts{}) {
			roots = append(roots, root)
		}
	}
	slices.Sort(roots)
	for _, root := range roots {
		o = o.Set(string(root), withCounts(o.Get(string(root)), counts[root]))
	}
	if raw == nil && len(o) == 0 {
		return nil
	}
	return o.Encode()
}
