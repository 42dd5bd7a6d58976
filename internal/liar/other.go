package liar

import (
	"encoding/json"
	"net/http"
)

// otherRoutes are account data, filters, profiles and what clients request at start.
func otherRoutes() []route {
	return []route{
		on("PUT", "user/*/account_data/*", putData),
		on("GET", "user/*/account_data/*", getData),
		on("PUT", "user/*/rooms/*/account_data/*", putData),
		on("GET", "user/*/rooms/*/account_data/*", getData),
		on("POST", "user/*/filter", func(s *Server, c *call) Reply {
			id := s.newID("filter")
			c.user.filters[id] = c.Body
			return OK(map[string]any{"filter_id": id})
		}),
		on("GET", "user/*/filter/*", func(_ *Server, c *call) Reply {
			raw, ok := c.user.filters[c.params[1]]
			if !ok {
				return Failure(http.StatusNotFound, "M_NOT_FOUND", "No such filter")
			}
			return OK(raw)
		}),
		on("GET", "profile/*", getProfile),
		on("GET", "profile/*/displayname", getProfile),
		on("PUT", "profile/*/displayname", func(s *Server, c *call) Reply {
			c.user.displayName = body[struct {
				Name string `json:"displayname"`
			}](c).Name
			return OK(empty)
		}),
		on("GET", "capabilities", func(*Server, *call) Reply { return OK(map[string]any{"capabilities": empty}) }),
		on("GET", "pushrules/", pushRules),
		on("GET", "pushrules", pushRules),
		on("PUT", "presence/*/status", nothing),
		on("PUT", "rooms/*/typing/*", nothing),
		on("POST", "rooms/*/receipt/*/*", nothing),
		on("POST", "rooms/*/read_markers", nothing),
	}
}

func pushRules(*Server, *call) Reply {
	none := []any{}
	return OK(map[string]any{"global": map[string]any{
		"override": none, "content": none, "room": none, "sender": none, "underride": none,
	}})
}

// The parameters of account data paths are the user, the room if any, and the type.
func (c *call) dataKey() dataKey {
	if len(c.params) == 3 {
		return dataKey{room: c.params[1], kind: c.params[2]}
	}
	return dataKey{kind: c.params[1]}
}

func putData(s *Server, c *call) Reply {
	if c.params[0] != c.user.id {
		return Failure(http.StatusForbidden, "M_FORBIDDEN", "Not your account data")
	}
	c.user.accountData[c.dataKey()] = datum{pos: s.bumpPosition(), content: c.Body}
	return OK(empty)
}

func getData(_ *Server, c *call) Reply {
	if c.params[0] != c.user.id {
		return Failure(http.StatusForbidden, "M_FORBIDDEN", "Not your account data")
	}
	d, ok := c.user.accountData[c.dataKey()]
	if !ok {
		return Failure(http.StatusNotFound, "M_NOT_FOUND", "No such account data")
	}
	return OK(d.content)
}

func getProfile(s *Server, c *call) Reply {
	u := s.users[c.params[0]]
	if u == nil {
		return Failure(http.StatusNotFound, "M_NOT_FOUND", "No such user")
	}
	if u.displayName == "" {
		return OK(empty)
	}
	return OK(map[string]any{"displayname": u.displayName})
}

// AccountData returns a user's global account data of a type; nil when there is none.
func (s *Server) AccountData(userID, kind string) json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[userID]; u != nil {
		return u.accountData[dataKey{kind: kind}].content
	}
	return nil
}

// SetAccountData replaces a user's global account data of a type and tells the user.
func (s *Server) SetAccountData(userID, kind string, content any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[userID]; u != nil {
		u.accountData[dataKey{kind: kind}] = datum{pos: s.bumpPosition(), content: encode(content)}
	}
}

// jsonInto decodes JSON and reports whether it has the right form.
func jsonInto(raw json.RawMessage, v any) bool { return len(raw) > 0 && json.Unmarshal(raw, v) == nil }
