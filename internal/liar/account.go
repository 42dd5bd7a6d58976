package liar

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Session is a logged-in device.
type Session struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Token    string `json:"access_token"`
}

// AddUser makes an account; its password is "password of" and the name.
func (s *Server) AddUser(localpart string) (userID, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.addUser(localpart, "password of "+localpart)
	return u.id, u.password
}

// Login logs a device in without a request. An empty device ID is chosen by the server.
func (s *Server) Login(localpart, deviceID string) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[fullID(localpart)]
	if u == nil {
		u = s.addUser(localpart, "password of "+localpart)
	}
	return s.login(u, deviceID).session()
}

// Revoke makes a token invalid; the device stays.
func (s *Server) Revoke(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, token)
}

// CloseAccount removes an account with all that belongs to it, so that the next
// login under its name makes another one.
func (s *Server) CloseAccount(localpart string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[fullID(localpart)]
	for _, d := range u.devices {
		s.removeDevice(d)
	}
	delete(s.users, u.id)
}

// RequireUIAForFirstKeys makes the server ask for user-interactive auth even for a
// user's first cross-signing keys, as servers without MSC3967 do.
func (s *Server) RequireUIAForFirstKeys() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uiaForFirstKeys = true
}

// KeepOldSignatures makes the server behave like Synapse when a device is removed: what
// others signed of it stays under its ID, is shown for the next device with that ID, and
// a new signature by the same key is answered as accepted and skipped.
func (s *Server) KeepOldSignatures() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keepSignatures = true
}

func fullID(user string) string {
	if strings.HasPrefix(user, "@") {
		return user
	}
	return "@" + user + ":" + ServerName
}

func (s *Server) addUser(localpart, password string) *user {
	u := &user{
		id: fullID(localpart), localpart: localpart, password: password,
		devices: map[string]*device{}, accountData: map[dataKey]datum{},
		filters: map[string]json.RawMessage{}, crossSigning: map[string]map[string]any{},
		oldSignatures: map[string]map[string]any{},
	}
	s.users[u.id] = u
	return u
}

func (s *Server) login(u *user, deviceID string) *device {
	if deviceID == "" {
		deviceID = s.newID("DEVICE")
	}
	d := u.devices[deviceID]
	if d == nil {
		d = &device{user: u, id: deviceID, fallback: map[string]oneTimeKey{}, fallbackUsed: map[string]bool{}}
		u.devices[deviceID] = d
	}
	delete(s.tokens, d.token)
	d.token = s.newID("token_of_" + u.localpart + "_")
	s.tokens[d.token] = d
	return d
}

func (d *device) session() Session {
	return Session{UserID: d.user.id, DeviceID: d.id, Token: d.token}
}

func (s *Server) removeDevice(d *device) {
	delete(s.tokens, d.token)
	delete(d.user.devices, d.id)
	if s.keepSignatures && d.keys != nil {
		d.user.oldSignatures[d.id] = d.signaturesOfOthers()
	}
	d.user.keysPos = s.bumpPosition()
}

func accountRoutes() []route {
	return []route{
		openOn("GET", "login", func(*Server, *call) Reply {
			return OK(map[string]any{"flows": []any{map[string]any{"type": "m.login.password"}}})
		}),
		openOn("POST", "login", loginByPassword),
		openOn("POST", "register", register),
		openOn("POST", "refresh", func(*Server, *call) Reply { // no login returns a refresh token
			return Failure(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "Invalid refresh token")
		}),
		on("POST", "logout", func(s *Server, c *call) Reply {
			s.removeDevice(c.device)
			return OK(empty)
		}),
		on("POST", "logout/all", func(s *Server, c *call) Reply {
			for _, d := range c.user.devices {
				s.removeDevice(d)
			}
			return OK(empty)
		}),
		on("GET", "account/whoami", func(_ *Server, c *call) Reply {
			return OK(map[string]any{"user_id": c.user.id, "device_id": c.device.id, "is_guest": false})
		}),
		on("POST", "account/password", changePassword),
		on("GET", "devices", func(_ *Server, c *call) Reply {
			all := []any{}
			for _, d := range c.user.devices {
				all = append(all, d.describe())
			}
			return OK(map[string]any{"devices": all})
		}),
		on("GET", "devices/*", withDevice(func(_ *Server, _ *call, d *device) Reply { return OK(d.describe()) })),
		on("PUT", "devices/*", withDevice(func(_ *Server, c *call, d *device) Reply {
			d.displayName = body[struct {
				Name string `json:"display_name"`
			}](c).Name
			return OK(empty)
		})),
		on("DELETE", "devices/*", withDevice(func(s *Server, c *call, d *device) Reply {
			if reply, ok := s.authenticate(c); !ok {
				return reply
			}
			s.removeDevice(d)
			return OK(empty)
		})),
		on("POST", "delete_devices", deleteDevices),
	}
}

func (d *device) describe() map[string]any {
	return map[string]any{"device_id": d.id, "display_name": d.displayName}
}

func withDevice(handle func(s *Server, c *call, d *device) Reply) handler {
	return func(s *Server, c *call) Reply {
		d := c.user.devices[c.params[0]]
		if d == nil {
			return Failure(http.StatusNotFound, "M_NOT_FOUND", "No such device")
		}
		return handle(s, c, d)
	}
}

func loginByPassword(s *Server, c *call) Reply {
	b := body[struct {
		Type       string `json:"type"`
		User       string `json:"user"`
		Identifier struct {
			User string `json:"user"`
		} `json:"identifier"`
		Password string `json:"password"`
		DeviceID string `json:"device_id"`
	}](c)
	if b.Type != "m.login.password" {
		return Failure(http.StatusBadRequest, "M_UNKNOWN", "Unknown login type")
	}
	if b.Identifier.User == "" {
		b.Identifier.User = b.User
	}
	u := s.users[fullID(b.Identifier.User)]
	if u == nil || u.password != b.Password {
		return Failure(http.StatusForbidden, "M_FORBIDDEN", "Invalid username or password")
	}
	return OK(s.login(u, b.DeviceID).session())
}

func register(s *Server, c *call) Reply {
	b := body[struct {
		Username     string          `json:"username"`
		Password     string          `json:"password"`
		DeviceID     string          `json:"device_id"`
		InhibitLogin bool            `json:"inhibit_login"`
		Auth         json.RawMessage `json:"auth"`
	}](c)
	if b.Auth == nil {
		return Reply{Status: http.StatusUnauthorized, Body: map[string]any{
			"session": s.newID("uia"), "flows": []any{map[string]any{"stages": []string{"m.login.dummy"}}}, "params": empty,
		}}
	}
	if s.users[fullID(b.Username)] != nil {
		return Failure(http.StatusBadRequest, "M_USER_IN_USE", "User ID already taken.")
	}
	u := s.addUser(b.Username, b.Password)
	if b.InhibitLogin {
		return OK(map[string]any{"user_id": u.id})
	}
	return OK(s.login(u, b.DeviceID).session())
}

func changePassword(s *Server, c *call) Reply {
	if reply, ok := s.authenticate(c); !ok {
		return reply
	}
	b := body[struct {
		New           string `json:"new_password"`
		LogoutDevices *bool  `json:"logout_devices"`
	}](c)
	c.user.password = b.New
	if b.LogoutDevices == nil || *b.LogoutDevices {
		for _, d := range c.user.devices {
			if d != c.device {
				s.removeDevice(d)
			}
		}
	}
	return OK(empty)
}

func deleteDevices(s *Server, c *call) Reply {
	if reply, ok := s.authenticate(c); !ok {
		return reply
	}
	for _, id := range body[struct {
		Devices []string `json:"devices"`
	}](c).Devices {
		if d := c.user.devices[id]; d != nil {
			s.removeDevice(d)
		}
	}
	return OK(empty)
}

// authenticate does user-interactive auth by password; unless ok is true, the reply must be
// returned.
func (s *Server) authenticate(c *call) (Reply, bool) {
	b := body[struct {
		Auth *struct {
			Type     string `json:"type"`
			Session  string `json:"session"`
			Password string `json:"password"`
		} `json:"auth"`
	}](c)
	challenge := map[string]any{
		"session": s.newID("uia"), "params": empty,
		"flows": []any{map[string]any{"stages": []string{"m.login.password"}}},
	}
	switch {
	case b.Auth == nil || b.Auth.Session == "":
	case b.Auth.Type == "m.login.password" && b.Auth.Password == c.user.password:
		return Reply{}, true
	default:
		challenge["errcode"], challenge["error"] = "M_FORBIDDEN", "Invalid password"
	}
	return Reply{Status: http.StatusUnauthorized, Body: challenge}, false
}
