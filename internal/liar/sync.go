package liar

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"
)

// syncFilter is the part of a filter that the server knows.
type syncFilter struct {
	Room struct {
		Timeline struct {
			Limit    *int     `json:"limit"`
			Types    []string `json:"types"`
			NotTypes []string `json:"not_types"`
		} `json:"timeline"`
	} `json:"room"`
}

const (
	defaultTimeline = 20
	toDeviceBatch   = 100
)

// syncClient answers a sync: at once when there is something, else when something
// comes or the timeout passes. Its since acknowledges the to-device messages up to it.
func syncClient(s *Server, c *call) Reply {
	q := c.query()
	since := position(q.Get("since"))
	timeout, err := strconv.Atoi(q.Get("timeout"))
	if err != nil {
		timeout = 0
	}
	deadline := time.NewTimer(time.Duration(timeout) * time.Millisecond)
	defer deadline.Stop()
	c.device.toDevice = slices.DeleteFunc(c.device.toDevice, func(m toDevice) bool { return m.pos <= since })
	initial := q.Get("since") == ""
	for {
		if s.tokens[c.Token()] != c.device {
			return Failure(401, "M_UNKNOWN_TOKEN", "Unrecognised access token")
		}
		response, something := s.syncOnce(c, since, initial || q.Get("full_state") == "true")
		if something || initial {
			return OK(response)
		}
		changed := s.changed
		s.mu.Unlock()
		ended := false
		select {
		case <-changed:
		case <-deadline.C:
			ended = true
		case <-c.done:
			ended = true
		}
		s.mu.Lock()
		if ended {
			response, _ := s.syncOnce(c, since, false)
			return OK(response)
		}
	}
}

func (s *Server) filter(c *call) syncFilter {
	var f syncFilter
	name := c.query().Get("filter")
	raw := c.user.filters[name]
	if len(name) > 0 && name[0] == '{' {
		raw = json.RawMessage(name)
	}
	jsonInto(raw, &f)
	return f
}

// syncOnce builds the response for what came after since, and reports whether it has
// anything that is worth an answer.
func (s *Server) syncOnce(c *call, since int64, full bool) (map[string]any, bool) {
	f := s.filter(c)
	next := s.pos
	join, invite, leave := map[string]any{}, map[string]any{}, map[string]any{}
	for id, r := range s.rooms {
		last := r.state[stateKey{"m.room.member", c.user.id}]
		switch r.membership(c.user.id) {
		case "join":
			if joined, ok := s.syncRoom(r, c, f, since, full); ok {
				join[id] = joined
			}
		case "invite":
			if last.pos > since {
				invite[id] = map[string]any{"invite_state": map[string]any{"events": s.stripped(r)}}
			}
		default:
			if last != nil && last.pos > since && !full {
				left, _ := s.syncRoom(r, c, f, since, false)
				leave[id] = left
			}
		}
	}
	batch := c.device.toDevice
	if len(batch) > toDeviceBatch {
		// The rest comes with the next sync, so its position must not be passed.
		batch = batch[:toDeviceBatch]
		next = batch[toDeviceBatch-1].pos
	}
	messages := []json.RawMessage{}
	for _, m := range batch {
		messages = append(messages, m.event)
	}
	global := c.user.dataSince("", since, full)
	out := map[string]any{
		"next_batch":                       tokenAt(next),
		"rooms":                            map[string]any{"join": join, "invite": invite, "leave": leave},
		"to_device":                        map[string]any{"events": messages},
		"account_data":                     map[string]any{"events": global},
		"presence":                         map[string]any{"events": []any{}},
		"device_one_time_keys_count":       c.device.counts(),
		"device_unused_fallback_key_types": c.device.unusedFallbacks(),
	}
	lists := 0
	if since > 0 {
		changed, left := s.deviceLists(c.user, since, s.pos)
		lists = len(changed) + len(left)
		out["device_lists"] = map[string]any{"changed": changed, "left": left}
	}
	something := len(join)+len(invite)+len(leave)+len(messages)+len(global)+lists > 0
	return out, something || c.device.countsPos > since
}

func (s *Server) syncRoom(r *room, c *call, f syncFilter, since int64, full bool) (map[string]any, bool) {
	left := r.membership(c.user.id) != "join"
	joinedSince := !left && r.membershipAt(c.user.id, since) != "join"
	limit := defaultTimeline
	if f.Room.Timeline.Limit != nil {
		limit = *f.Room.Timeline.Limit
	}
	var timeline []*Event
	older := int64(0) // the newest event that is not in the timeline
	for i := len(r.events) - 1; i >= 0; i-- {
		e := r.events[i]
		if left && e.pos > r.state[stateKey{"m.room.member", c.user.id}].pos || !f.wants(e) {
			continue
		}
		if len(timeline) == limit || (e.pos <= since && !full && !joinedSince) {
			older = e.pos
			break
		}
		timeline = append(timeline, e)
	}
	slices.Reverse(timeline)
	limited := older > since || (older > 0 && joinedSince)
	start := s.pos
	if len(timeline) > 0 {
		start = timeline[0].pos - 1
	}
	data := c.user.dataSince(r.id, since, full || joinedSince)
	out := map[string]any{
		"timeline": map[string]any{
			"events": s.renderAll(r, timeline, c.device), "limited": limited, "prev_batch": tokenAt(start),
		},
		"state":                map[string]any{"events": s.renderAll(r, r.stateBetween(since, start, full || joinedSince), c.device)},
		"ephemeral":            map[string]any{"events": []any{}},
		"account_data":         map[string]any{"events": data},
		"summary":              empty,
		"unread_notifications": map[string]any{"highlight_count": 0, "notification_count": 0},
	}
	return out, len(timeline)+len(data) > 0 || full || joinedSince
}

func (f syncFilter) wants(e *Event) bool {
	t := f.Room.Timeline
	return (t.Types == nil || slices.Contains(t.Types, e.Type)) && !slices.Contains(t.NotTypes, e.Type)
}

// stateBetween returns the state at the start of a timeline, or what of it came after
// since.
func (r *room) stateBetween(since, start int64, full bool) []*Event {
	latest := map[stateKey]*Event{}
	for _, e := range r.events {
		if e.StateKey != nil && e.pos <= start && (full || e.pos > since) {
			latest[stateKey{e.Type, *e.StateKey}] = e
		}
	}
	var all []*Event
	for key, e := range latest {
		// A state event that the test removed is not sent.
		if r.state[key] != nil {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *Event) int { return int(a.pos - b.pos) })
	return all
}

// stripped returns the state that an invited user sees.
func (s *Server) stripped(r *room) []any {
	all := []any{}
	for _, e := range r.currentState() {
		all = append(all, map[string]any{"type": e.Type, "sender": e.Sender, "state_key": *e.StateKey, "content": e.Content})
	}
	return all
}

func (u *user) dataSince(room string, since int64, full bool) []any {
	events := []any{}
	for key, d := range u.accountData {
		if key.room == room && (full || d.pos > since) {
			events = append(events, map[string]any{"type": key.kind, "content": d.content})
		}
	}
	return events
}
