package liar

import (
	"encoding/json"
	"maps"
	"slices"
)

// Copy starts another server, with an address of its own and a copy of this one's state and
// of the requests that it got so far. From then on they are independent. Hooks are not
// copied. The server that is copied may have ended.
func (s *Server) Copy(t tb) *Server {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	return start(t, &Server{requests: slices.Clone(s.requests), state: s.state.copy()})
}

func (s *state) copy() state {
	c := *s
	c.users, c.tokens, c.rooms = map[string]*user{}, map[string]*device{}, map[string]*room{}
	c.txns, c.notCopied = copyObject(s.txns), slices.Clone(s.notCopied)
	c.files = maps.Clone(s.files) // a file is replaced, never written to
	devices := make(map[*device]*device)
	for id, u := range s.users {
		c.users[id] = u.copy(devices)
	}
	// A device that was removed lives on in the events that it sent.
	deviceOf := func(d *device) *device {
		if d == nil {
			return nil
		}
		if devices[d] == nil {
			devices[d] = d.copy(c.users[d.user.id])
		}
		return devices[d]
	}
	for token, d := range s.tokens {
		c.tokens[token] = deviceOf(d)
	}
	for id, r := range s.rooms {
		c.rooms[id] = r.copy(deviceOf)
	}
	return c
}

// copy returns a copy of the user, and records the copy of each device in devices.
func (u *user) copy(devices map[*device]*device) *user {
	c := *u
	c.devices = make(map[string]*device)
	for id, d := range u.devices {
		devices[d] = d.copy(&c)
		c.devices[id] = devices[d]
	}
	c.accountData, c.filters = maps.Clone(u.accountData), maps.Clone(u.filters)
	c.oldSignatures, c.crossSigning = map[string]map[string]any{}, map[string]map[string]any{}
	for id, signed := range u.oldSignatures {
		c.oldSignatures[id] = copyObject(signed)
	}
	for name, key := range u.crossSigning {
		c.crossSigning[name] = copyObject(key)
	}
	c.backups = nil
	for _, b := range u.backups {
		c.backups = append(c.backups, b.copy())
	}
	return &c
}

func (d *device) copy(of *user) *device {
	c := *d
	c.user, c.keys = of, copyObject(d.keys)
	c.oneTimeKeys, c.toDevice = slices.Clone(d.oneTimeKeys), slices.Clone(d.toDevice)
	for i, k := range c.oneTimeKeys {
		c.oneTimeKeys[i].key = copyValue(k.key)
	}
	c.fallback, c.fallbackUsed = make(map[string]oneTimeKey), maps.Clone(d.fallbackUsed)
	for algorithm, k := range d.fallback {
		k.key = copyValue(k.key)
		c.fallback[algorithm] = k
	}
	return &c
}

func (b *backup) copy() *backup {
	c := *b
	c.keys = make(map[string]map[string]json.RawMessage)
	for room, sessions := range b.keys {
		c.keys[room] = maps.Clone(sessions)
	}
	return &c
}

func (r *room) copy(deviceOf func(*device) *device) *room {
	c := &room{id: r.id, state: make(map[stateKey]*Event)}
	events := make(map[*Event]*Event)
	var eventOf func(e *Event) *Event
	eventOf = func(e *Event) *Event {
		if e == nil {
			return nil
		}
		if events[e] == nil {
			one := *e
			events[e] = &one
			one.Unsigned, one.txnDevice, one.redactor = copyObject(e.Unsigned), deviceOf(e.txnDevice), eventOf(e.redactor)
			if e.StateKey != nil {
				one.StateKey = new(*e.StateKey)
			}
		}
		return events[e]
	}
	for _, e := range r.events {
		c.events = append(c.events, eventOf(e))
	}
	for key, e := range r.state {
		c.state[key] = eventOf(e)
	}
	return c
}

// copyObject copies a JSON object; nil stays nil.
func copyObject(o map[string]any) map[string]any {
	if o == nil {
		return nil
	}
	c := make(map[string]any, len(o))
	for k, v := range o {
		c[k] = copyValue(v)
	}
	return c
}

// copyValue copies what decoding JSON gives; everything else in the state is never changed.
func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return copyObject(v)
	case []any:
		c := slices.Clone(v)
		for i := range c {
			c[i] = copyValue(c[i])
		}
		return c
	default:
		return v
	}
}
