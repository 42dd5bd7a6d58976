package liar

import (
	"encoding/json"
	"net/http"
	"time"
)

func roomRoutes() []route {
	return []route{
		on("POST", "createRoom", createRoom),
		on("POST", "join/*", joinRoom),
		on("POST", "rooms/*/join", joinRoom),
		on("POST", "rooms/*/leave", func(s *Server, c *call) Reply {
			return s.member(c, c.user.id, "leave")
		}),
		on("POST", "rooms/*/invite", changeMember("invite")),
		on("POST", "rooms/*/kick", changeMember("leave")),
		on("POST", "rooms/*/ban", changeMember("ban")),
		on("POST", "rooms/*/unban", changeMember("leave")),
		on("POST", "rooms/*/forget", nothing),
		on("POST", "rooms/*/upgrade", upgradeRoom),
		on("PUT", "rooms/*/send/*/*", send),
		on("POST", "rooms/*/send/*", send),
		on("PUT", "rooms/*/redact/*/*", redact),
		on("POST", "rooms/*/redact/*", redact),
		on("PUT", "rooms/*/state/*", putState),
		on("PUT", "rooms/*/state/*/*", putState),
	}
}

// add appends an event to a room and sets its position.
func (s *Server) add(r *room, e *Event) *Event {
	if e.ID == "" {
		e.ID = s.newID("$event")
	}
	if e.Content == nil {
		e.Content = encode(empty)
	}
	e.pos = s.bumpPosition()
	e.time = time.Now().UnixMilli()
	r.events = append(r.events, e)
	if e.StateKey != nil {
		r.state[stateKey{e.Type, *e.StateKey}] = e
	}
	return e
}

func (s *Server) addState(r *room, sender, kind, key string, content any) *Event {
	return s.add(r, &Event{Type: kind, Sender: sender, StateKey: &key, Content: encode(content)})
}

// Inject adds an event to a room as if its sender had sent it; nothing is checked.
func (s *Server) Inject(roomID string, e Event) (eventID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[roomID]
	if r == nil {
		return ""
	}
	return s.add(r, &e).ID
}

// Forget removes a state event from the room's current state, as a state reset would.
func (s *Server) Forget(roomID, eventType, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms[roomID]; r != nil {
		delete(r.state, stateKey{eventType, key})
	}
}

// Events returns all events of a room in order.
func (s *Server) Events(roomID string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Event
	if r := s.rooms[roomID]; r != nil {
		for _, e := range r.events {
			all = append(all, *e)
		}
	}
	return all
}

// CreateRoom makes a room without a request: the first user creates it, the others
// are joined.
func (s *Server) CreateRoom(encrypted bool, users ...string) (roomID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.newRoom(users[0])
	if encrypted {
		s.addState(r, users[0], "m.room.encryption", "", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
	}
	for _, u := range users[1:] {
		s.addState(r, u, "m.room.member", u, map[string]any{"membership": "join"})
	}
	return r.id
}

func (s *Server) newRoom(creator string) *room {
	r := &room{id: s.newID("!room") + ":" + ServerName, state: map[stateKey]*Event{}}
	s.rooms[r.id] = r
	s.addState(r, creator, "m.room.create", "", map[string]any{"room_version": "10", "creator": creator})
	s.addState(r, creator, "m.room.member", creator, map[string]any{"membership": "join"})
	s.addState(r, creator, "m.room.power_levels", "", map[string]any{"users": map[string]int{creator: 100}})
	s.addState(r, creator, "m.room.join_rules", "", map[string]any{"join_rule": "invite"})
	s.addState(r, creator, "m.room.history_visibility", "", map[string]any{"history_visibility": "shared"})
	return r
}

func createRoom(s *Server, c *call) Reply {
	b := body[struct {
		Name         string   `json:"name"`
		Invite       []string `json:"invite"`
		InitialState []struct {
			Type     string          `json:"type"`
			StateKey string          `json:"state_key"`
			Content  json.RawMessage `json:"content"`
		} `json:"initial_state"`
	}](c)
	r := s.newRoom(c.user.id)
	for _, e := range b.InitialState {
		s.addState(r, c.user.id, e.Type, e.StateKey, e.Content)
	}
	if b.Name != "" {
		s.addState(r, c.user.id, "m.room.name", "", map[string]any{"name": b.Name})
	}
	for _, u := range b.Invite {
		s.addState(r, c.user.id, "m.room.member", u, map[string]any{"membership": "invite"})
	}
	return OK(map[string]any{"room_id": r.id})
}

// errNotInRoom is also the answer for rooms that do not exist, as real servers give it.
func errNotInRoom() Reply {
	return Failure(http.StatusForbidden, "M_FORBIDDEN", "You are not in this room")
}

func joinRoom(s *Server, c *call) Reply {
	reply := s.member(c, c.user.id, "join")
	if reply.Status == http.StatusOK {
		reply.Body = map[string]any{"room_id": c.params[0]}
	}
	return reply
}

func changeMember(membership string) handler {
	return func(s *Server, c *call) Reply {
		target := body[struct {
			UserID string `json:"user_id"`
		}](c).UserID
		if r := s.rooms[c.params[0]]; r != nil && r.membership(c.user.id) != "join" {
			return errNotInRoom()
		}
		return s.member(c, target, membership)
	}
}

func (s *Server) member(c *call, target, membership string) Reply {
	r := s.rooms[c.params[0]]
	if r == nil {
		return Failure(http.StatusNotFound, "M_NOT_FOUND", "Unknown room")
	}
	content := map[string]any{"membership": membership}
	if u := s.users[target]; u != nil && u.displayName != "" {
		content["displayname"] = u.displayName
	}
	s.addState(r, c.user.id, "m.room.member", target, content)
	return OK(empty)
}

// writable returns the room that a request writes to.
func (s *Server) writable(c *call) (*room, Reply) {
	r := s.rooms[c.params[0]]
	if r == nil || r.membership(c.user.id) != "join" {
		return nil, errNotInRoom()
	}
	return r, Reply{}
}

func send(s *Server, c *call) Reply {
	r, refusal := s.writable(c)
	if r == nil {
		return refusal
	}
	return s.sendOnce(c, 2, func(txn string) *Event {
		return s.add(r, &Event{
			Type: c.params[1], Sender: c.user.id, Content: c.Body, txn: txn, txnDevice: c.device,
		})
	})
}

// sendOnce makes an event, once for a transaction ID; the parameter with that index is
// the transaction ID when the path has it.
func (s *Server) sendOnce(c *call, index int, do func(txn string) *Event) Reply {
	if len(c.params) <= index {
		return OK(map[string]any{"event_id": do("").ID})
	}
	return OK(s.once(c, func() any { return map[string]any{"event_id": do(c.params[index]).ID} }))
}

func redact(s *Server, c *call) Reply {
	r, refusal := s.writable(c)
	if r == nil {
		return refusal
	}
	return s.sendOnce(c, 2, func(txn string) *Event {
		e := s.add(r, &Event{
			Type: "m.room.redaction", Sender: c.user.id, Content: c.Body, Redacts: c.params[1],
			txn: txn, txnDevice: c.device,
		})
		if target := r.event(c.params[1]); target != nil {
			target.Content, target.redactor = encode(empty), e
		}
		return e
	})
}

func (r *room) event(id string) *Event {
	for _, e := range r.events {
		if e.ID == id {
			return e
		}
	}
	return nil
}

func putState(s *Server, c *call) Reply {
	r, refusal := s.writable(c)
	if r == nil {
		return refusal
	}
	return OK(map[string]any{"event_id": s.addState(r, c.user.id, c.params[1], c.stateKey(), json.RawMessage(c.Body)).ID})
}

func (c *call) stateKey() string {
	if len(c.params) > 2 {
		return c.params[2]
	}
	return ""
}
