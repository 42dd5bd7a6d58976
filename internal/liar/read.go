package liar

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func readRoutes() []route {
	return []route{
		on("GET", "sync", syncClient),
		on("GET", "rooms/*/messages", messages),
		on("GET", "rooms/*/event/*", oneEvent),
		on("GET", "rooms/*/context/*", eventContext),
		on("GET", "rooms/*/relations/*", relations),
		on("GET", "rooms/*/relations/*/*", relations),
		on("GET", "rooms/*/relations/*/*/*", relations),
		on("GET", "rooms/*/state", func(s *Server, c *call) Reply {
			return s.readable(c, func(r *room) Reply { return OK(s.renderAll(r, r.currentState(), c.device)) })
		}),
		on("GET", "rooms/*/state/*", getState),
		on("GET", "rooms/*/state/*/*", getState),
		on("GET", "rooms/*/members", members),
		on("GET", "rooms/*/joined_members", func(s *Server, c *call) Reply {
			return s.readable(c, func(r *room) Reply {
				joined := map[string]any{}
				for key, e := range r.state {
					if key.kind == "m.room.member" && e.membership() == "join" {
						joined[key.key] = empty
					}
				}
				return OK(map[string]any{"joined": joined})
			})
		}),
		on("GET", "joined_rooms", func(s *Server, c *call) Reply {
			joined := []string{}
			for id, r := range s.rooms {
				if r.membership(c.user.id) == "join" {
					joined = append(joined, id)
				}
			}
			return OK(map[string]any{"joined_rooms": joined})
		}),
	}
}

func position(token string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(token, "s"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func tokenAt(pos int64) string { return "s" + strconv.FormatInt(pos, 10) }

// readable calls do with the room if the user is or was in it.
func (s *Server) readable(c *call, do func(r *room) Reply) Reply {
	r := s.rooms[c.params[0]]
	if r == nil || r.state[stateKey{"m.room.member", c.user.id}] == nil {
		return errNotInRoom()
	}
	return do(r)
}

// render returns an event as the server sends it to a device. Which room it is in is left
// out in sync responses.
func (s *Server) render(r *room, e *Event, to *device) map[string]any {
	unsigned := map[string]any{}
	maps.Copy(unsigned, e.Unsigned)
	if e.txn != "" && e.txnDevice == to {
		unsigned["transaction_id"] = e.txn
	}
	if e.redactor != nil {
		unsigned["redacted_because"] = s.render(r, e.redactor, to)
	}
	out := map[string]any{
		"event_id": e.ID, "type": e.Type, "sender": e.Sender, "content": e.Content,
		"origin_server_ts": e.time, "unsigned": unsigned, "room_id": r.id,
	}
	if e.StateKey != nil {
		out["state_key"] = *e.StateKey
	}
	if e.Redacts != "" {
		out["redacts"] = e.Redacts
	}
	return out
}

func (s *Server) renderAll(r *room, events []*Event, to *device) []any {
	all := []any{}
	for _, e := range events {
		all = append(all, s.render(r, e, to))
	}
	return all
}

// currentState returns the room's state in the order in which it came about.
func (r *room) currentState() []*Event {
	var all []*Event
	for _, e := range r.state {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *Event) int { return int(a.pos - b.pos) })
	return all
}

func getState(s *Server, c *call) Reply {
	return s.readable(c, func(r *room) Reply {
		e := r.state[stateKey{c.params[1], c.stateKey()}]
		if e == nil {
			return Failure(http.StatusNotFound, "M_NOT_FOUND", "No such state")
		}
		return OK(e.Content)
	})
}

func members(s *Server, c *call) Reply {
	return s.readable(c, func(r *room) Reply {
		only, not := c.query().Get("membership"), c.query().Get("not_membership")
		var chunk []*Event
		for _, e := range r.currentState() {
			if e.Type != "m.room.member" || (only != "" && e.membership() != only) || (not != "" && e.membership() == not) {
				continue
			}
			chunk = append(chunk, e)
		}
		return OK(map[string]any{"chunk": s.renderAll(r, chunk, c.device)})
	})
}

func messages(s *Server, c *call) Reply {
	return s.readable(c, func(r *room) Reply {
		q := c.query()
		backwards := q.Get("dir") != "f"
		limit, err := strconv.Atoi(q.Get("limit"))
		if err != nil {
			limit = 10
		}
		from := s.pos
		if token := q.Get("from"); token != "" || !backwards {
			from = position(token)
		}
		page, end := r.page(from, backwards, limit)
		out := map[string]any{"start": tokenAt(from), "chunk": s.renderAll(r, page, c.device)}
		if end >= 0 {
			out["end"] = tokenAt(end)
		}
		return OK(out)
	})
}

// page returns at most limit events before or after a position, nearest first, and the
// position of the next page, -1 when there is none.
func (r *room) page(from int64, backwards bool, limit int) (page []*Event, end int64) {
	var all []*Event
	for _, e := range r.events {
		if (e.pos <= from) == backwards {
			all = append(all, e)
		}
	}
	if backwards {
		slices.Reverse(all)
	}
	if len(all) <= limit {
		return all, -1
	}
	page = all[:limit]
	if backwards {
		return page, page[limit-1].pos - 1
	}
	return page, page[limit-1].pos
}

func oneEvent(s *Server, c *call) Reply {
	return s.readable(c, func(r *room) Reply {
		e := r.event(c.params[1])
		if e == nil {
			return Failure(http.StatusNotFound, "M_NOT_FOUND", "Event not found.")
		}
		return OK(s.render(r, e, c.device))
	})
}

func eventContext(s *Server, c *call) Reply {
	return s.readable(c, func(r *room) Reply {
		e := r.event(c.params[1])
		if e == nil {
			return Failure(http.StatusNotFound, "M_NOT_FOUND", "Event not found.")
		}
		before, _ := r.page(e.pos-1, true, 5)
		after, _ := r.page(e.pos, false, 5)
		return OK(map[string]any{
			"event":         s.render(r, e, c.device),
			"events_before": s.renderAll(r, before, c.device),
			"events_after":  s.renderAll(r, after, c.device),
			"state":         s.renderAll(r, r.currentState(), c.device),
			"start":         tokenAt(e.pos - 1), "end": tokenAt(e.pos),
		})
	})
}

func relations(s *Server, c *call) Reply {
	return s.readable(c, func(r *room) Reply {
		var chunk []*Event
		for i := len(r.events) - 1; i >= 0; i-- {
			e := r.events[i]
			var content struct {
				RelatesTo struct {
					RelType string `json:"rel_type"`
					EventID string `json:"event_id"`
				} `json:"m.relates_to"`
			}
			if jsonInto(e.Content, &content) && content.RelatesTo.EventID == c.params[1] &&
				(len(c.params) < 3 || content.RelatesTo.RelType == c.params[2]) &&
				(len(c.params) < 4 || e.Type == c.params[3]) {
				chunk = append(chunk, e)
			}
		}
		return OK(map[string]any{"chunk": s.renderAll(r, chunk, c.device)})
	})
}
