package liar

import (
	"encoding/json"
	"net/http"
	"strconv"
)

type backup struct {
	version   string
	algorithm string
	authData  json.RawMessage
	etag      int
	deleted   bool
	keys      map[string]map[string]json.RawMessage // room → session → data
}

func backupRoutes() []route {
	routes := []route{
		on("POST", "room_keys/version", func(s *Server, c *call) Reply {
			b := &backup{version: strconv.Itoa(len(c.user.backups) + 1), keys: map[string]map[string]json.RawMessage{}}
			b.describe(c)
			c.user.backups = append(c.user.backups, b)
			return OK(map[string]any{"version": b.version})
		}),
		on("GET", "room_keys/version", func(_ *Server, c *call) Reply { return c.user.backup("").info() }),
		on("GET", "room_keys/version/*", func(_ *Server, c *call) Reply { return c.user.backup(c.params[0]).info() }),
		on("PUT", "room_keys/version/*", withBackup(func(c *call, b *backup) Reply {
			b.describe(c)
			return OK(empty)
		})),
		on("DELETE", "room_keys/version/*", withBackup(func(_ *call, b *backup) Reply {
			b.deleted = true
			return OK(empty)
		})),
	}
	for _, pattern := range []string{"room_keys/keys", "room_keys/keys/*", "room_keys/keys/*/*"} {
		routes = append(routes, on("PUT", pattern, putBackup), on("GET", pattern, getBackup), on("DELETE", pattern, deleteBackup))
	}
	return routes
}

func (b *backup) describe(c *call) {
	v := body[struct {
		Algorithm string          `json:"algorithm"`
		AuthData  json.RawMessage `json:"auth_data"`
	}](c)
	b.algorithm, b.authData = v.Algorithm, v.AuthData
}

// backup returns one version, or the newest when it is empty; nil when there is none.
func (u *user) backup(version string) *backup {
	for i := len(u.backups) - 1; i >= 0; i-- {
		b := u.backups[i]
		if !b.deleted && (version == "" || version == b.version) {
			return b
		}
	}
	return nil
}

func (b *backup) info() Reply {
	if b == nil {
		return noBackup()
	}
	return OK(map[string]any{
		"version": b.version, "algorithm": b.algorithm, "auth_data": b.authData,
		"count": b.count(), "etag": strconv.Itoa(b.etag),
	})
}

func noBackup() Reply { return Failure(http.StatusNotFound, "M_NOT_FOUND", "No backup found") }

func withBackup(handle func(c *call, b *backup) Reply) handler {
	return func(_ *Server, c *call) Reply {
		b := c.user.backup(c.params[0])
		if b == nil {
			return noBackup()
		}
		return handle(c, b)
	}
}

func (b *backup) count() int {
	n := 0
	for _, sessions := range b.keys {
		n += len(sessions)
	}
	return n
}

func putBackup(_ *Server, c *call) Reply {
	b := c.user.backup("")
	if b == nil {
		return noBackup()
	}
	if c.query().Get("version") != b.version {
		return conflict(b.version)
	}
	type sessions struct {
		Sessions map[string]json.RawMessage `json:"sessions"`
	}
	rooms := map[string]sessions{}
	switch len(c.params) {
	case 0:
		rooms = body[struct {
			Rooms map[string]sessions `json:"rooms"`
		}](c).Rooms
	case 1:
		rooms[c.params[0]] = body[sessions](c)
	case 2:
		rooms[c.params[0]] = sessions{map[string]json.RawMessage{c.params[1]: c.Body}}
	}
	for room, of := range rooms {
		if b.keys[room] == nil {
			b.keys[room] = map[string]json.RawMessage{}
		}
		for session, data := range of.Sessions {
			if old, ok := b.keys[room][session]; !ok || isBetterKey(data, old) {
				b.keys[room][session] = data
			}
		}
	}
	b.etag++
	return OK(map[string]any{"count": b.count(), "etag": strconv.Itoa(b.etag)})
}

// isBetterKey reports whether a room key replaces one of the same session, as Synapse decides
// (requirement 16.5): an equal one does not.
func isBetterKey(now, old json.RawMessage) bool {
	type key struct {
		FirstIndex int64 `json:"first_message_index"`
		Forwarded  int64 `json:"forwarded_count"`
		Verified   bool  `json:"is_verified"`
	}
	var n, o key
	if json.Unmarshal(now, &n) != nil || json.Unmarshal(old, &o) != nil {
		return false
	}
	switch {
	case n.Verified && !o.Verified:
		return true
	case n.FirstIndex < o.FirstIndex:
		return true
	default:
		return n.Forwarded < o.Forwarded
	}
}

func getBackup(_ *Server, c *call) Reply {
	b := c.user.backup(c.query().Get("version"))
	if b == nil {
		return noBackup()
	}
	switch len(c.params) {
	case 1:
		return OK(map[string]any{"sessions": b.room(c.params[0])})
	case 2:
		data, ok := b.keys[c.params[0]][c.params[1]]
		if !ok {
			return Failure(http.StatusNotFound, "M_NOT_FOUND", "No room_keys found")
		}
		return OK(data)
	default:
		rooms := map[string]any{}
		for room := range b.keys {
			rooms[room] = map[string]any{"sessions": b.room(room)}
		}
		return OK(map[string]any{"rooms": rooms})
	}
}

func (b *backup) room(room string) map[string]json.RawMessage {
	if sessions := b.keys[room]; sessions != nil {
		return sessions
	}
	return map[string]json.RawMessage{}
}

func deleteBackup(_ *Server, c *call) Reply {
	b := c.user.backup(c.query().Get("version"))
	if b == nil {
		return noBackup()
	}
	switch len(c.params) {
	case 1:
		delete(b.keys, c.params[0])
	case 2:
		delete(b.keys[c.params[0]], c.params[1])
	default:
		clear(b.keys)
	}
	b.etag++
	return OK(map[string]any{"count": b.count(), "etag": strconv.Itoa(b.etag)})
}

// BackedUp returns how many room keys the newest backup of a user holds, and its version.
func (s *Server) BackedUp(userID string) (count int, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[userID]
	if u == nil || u.backup("") == nil {
		return 0, ""
	}
	return u.backup("").count(), u.backup("").version
}
