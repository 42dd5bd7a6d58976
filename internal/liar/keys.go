package liar

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func keyRoutes() []route {
	return []route{
		on("POST", "keys/upload", uploadKeys),
		on("POST", "keys/query", queryKeys),
		on("POST", "keys/claim", claimKeys),
		on("GET", "keys/changes", func(s *Server, c *call) Reply {
			from := position(c.query().Get("from"))
			changed, left := s.deviceLists(c.user, from, position(c.query().Get("to")))
			return OK(map[string]any{"changed": changed, "left": left})
		}),
		on("PUT", "sendToDevice/*/*", sendToDevice),
	}
}

func uploadKeys(s *Server, c *call) Reply {
	b := body[struct {
		DeviceKeys   map[string]any `json:"device_keys"`
		OneTimeKeys  map[string]any `json:"one_time_keys"`
		FallbackKeys map[string]any `json:"fallback_keys"`
	}](c)
	for id, key := range b.OneTimeKeys {
		i := slices.IndexFunc(c.device.oneTimeKeys, func(k oneTimeKey) bool { return k.id == id })
		if i >= 0 && string(encode(c.device.oneTimeKeys[i].key)) != string(encode(key)) {
			return s.refuse(c, id, b.OneTimeKeys, b.FallbackKeys)
		}
	}
	c.device.addKeys(b.OneTimeKeys, b.FallbackKeys)
	if b.DeviceKeys != nil {
		if string(encode(b.DeviceKeys["keys"])) == string(encode(c.device.keys["keys"])) {
			// The same keys again keep what others signed.
			addSignatures(b.DeviceKeys, c.device.keys)
		}
		addSignatures(b.DeviceKeys, c.user.oldSignatures[c.device.id])
		c.device.keys = b.DeviceKeys
		c.user.keysPos = s.bumpPosition()
	}
	c.device.countsPos = s.bumpPosition()
	return OK(map[string]any{"one_time_key_counts": c.device.counts()})
}

// addKeys stores one-time and fallback keys. One with a known ID replaces the old one.
func (d *device) addKeys(oneTime, fallback map[string]any) {
	// Keys are claimed in the order in which they came; JSON objects have no order, IDs do.
	for _, id := range slices.Sorted(maps.Keys(oneTime)) {
		key := newOneTimeKey(id, oneTime[id])
		if i := slices.IndexFunc(d.oneTimeKeys, func(k oneTimeKey) bool { return k.id == id }); i >= 0 {
			d.oneTimeKeys[i] = key
			continue
		}
		d.oneTimeKeys = append(d.oneTimeKeys, key)
	}
	for id, key := range fallback {
		k := newOneTimeKey(id, key)
		d.fallback[k.algorithm] = k
		d.fallbackUsed[k.algorithm] = false
	}
}

// Refusal is how a homeserver answers one-time keys with an ID that it has for another key.
type Refusal int

// As Synapse does, in Dendrite's words, and as Dendrite does, which stores them all the
// same.
const (
	RefuseAsSynapse Refusal = iota
	RefuseInWordsOfDendrite
	RefuseAsDendrite
)

// RefuseKeysAs chooses how a clash of one-time keys is answered.
func (s *Server) RefuseKeysAs(how Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = how
}

// refuse answers an upload in which one key has an ID that is taken.
func (s *Server) refuse(c *call, id string, oneTime, fallback map[string]any) Reply {
	if s.refusing == RefuseAsSynapse {
		return Failure(http.StatusBadRequest, "M_UNKNOWN", "One time key "+id+" already exists")
	}
	if s.refusing == RefuseAsDendrite {
		c.device.addKeys(oneTime, fallback)
		c.device.countsPos = s.bumpPosition()
	}
	text := fmt.Sprintf("%s device %s: algorithm / key ID %s one-time key already exists", c.user.id, c.device.id, id)
	return Reply{Status: http.StatusBadRequest, Body: map[string]any{c.user.id: map[string]any{c.device.id: map[string]any{"error": text}}}}
}

func newOneTimeKey(id string, key any) oneTimeKey {
	algorithm, _, _ := strings.Cut(id, ":")
	return oneTimeKey{algorithm: algorithm, id: id, key: key}
}

func (d *device) counts() map[string]int {
	counts := map[string]int{"signed_curve25519": 0}
	for _, k := range d.oneTimeKeys {
		counts[k.algorithm]++
	}
	return counts
}

func (d *device) unusedFallbacks() []string {
	unused := []string{}
	for algorithm := range d.fallback {
		if !d.fallbackUsed[algorithm] {
			unused = append(unused, algorithm)
		}
	}
	return unused
}

func queryKeys(s *Server, c *call) Reply {
	b := body[struct {
		DeviceKeys map[string][]string `json:"device_keys"`
	}](c)
	devices, master, self, own := map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}
	for id, wanted := range b.DeviceKeys {
		u, of := s.users[id], map[string]any{}
		devices[id] = of
		if u == nil {
			continue
		}
		for _, d := range u.devices {
			if d.keys != nil && (len(wanted) == 0 || slices.Contains(wanted, d.id)) {
				keys := maps.Clone(d.keys)
				keys["unsigned"] = map[string]any{"device_display_name": d.displayName}
				of[d.id] = keys
			}
		}
		put(master, id, u.crossSigning["master"])
		put(self, id, u.crossSigning["self_signing"])
		if u == c.user {
			put(own, id, u.crossSigning["user_signing"])
		}
	}
	return OK(map[string]any{
		"device_keys": devices, "master_keys": master, "self_signing_keys": self,
		"user_signing_keys": own, "failures": empty,
	})
}

func put(to map[string]any, id string, key map[string]any) {
	if key != nil {
		to[id] = key
	}
}

func claimKeys(s *Server, c *call) Reply {
	b := body[struct {
		OneTimeKeys map[string]map[string]string `json:"one_time_keys"`
	}](c)
	claimed := map[string]map[string]any{}
	for id, devices := range b.OneTimeKeys {
		for deviceID, algorithm := range devices {
			u := s.users[id]
			if u == nil || u.devices[deviceID] == nil {
				continue
			}
			d := u.devices[deviceID]
			if k, ok := d.claim(algorithm); ok {
				d.countsPos = s.bumpPosition()
				if claimed[id] == nil {
					claimed[id] = map[string]any{}
				}
				claimed[id][deviceID] = map[string]any{k.id: k.key}
			}
		}
	}
	return OK(map[string]any{"one_time_keys": claimed, "failures": empty})
}

func (d *device) claim(algorithm string) (oneTimeKey, bool) {
	for i, k := range d.oneTimeKeys {
		if k.algorithm == algorithm {
			d.oneTimeKeys = slices.Delete(d.oneTimeKeys, i, i+1)
			return k, true
		}
	}
	k, ok := d.fallback[algorithm]
	d.fallbackUsed[algorithm] = ok
	return k, ok
}

// deviceLists returns whose devices changed and whom the user shares no room with any more,
// between two positions.
func (s *Server) deviceLists(u *user, from, to int64) (changed, left []string) {
	changed, left = []string{}, []string{}
	for _, other := range s.users {
		before := s.shareRoomAt(u.id, other.id, from)
		now := s.shareRoomAt(u.id, other.id, to)
		switch {
		case now && !before && other != u, (now || other == u) && other.keysPos > from:
			changed = append(changed, other.id)
		case before && !now:
			left = append(left, other.id)
		}
	}
	slices.Sort(changed)
	slices.Sort(left)
	return changed, left
}

func sendToDevice(s *Server, c *call) Reply {
	return OK(s.once(c, func() any {
		b := body[struct {
			Messages map[string]map[string]json.RawMessage `json:"messages"`
		}](c)
		for id, devices := range b.Messages {
			for deviceID, content := range devices {
				s.deliver(id, deviceID, c.user.id, c.params[0], content)
			}
		}
		return empty
	}))
}

// deliver queues a to-device message for one device, or for all ("*").
func (s *Server) deliver(userID, deviceID, sender, kind string, content json.RawMessage) {
	u := s.users[userID]
	if u == nil {
		return
	}
	event := encode(map[string]any{"type": kind, "sender": sender, "content": content})
	for id, d := range u.devices {
		if deviceID == "*" || deviceID == id {
			d.toDevice = append(d.toDevice, toDevice{pos: s.bumpPosition(), event: event})
		}
	}
}

// SendToDevice queues a to-device message as if sender had sent it. Device "*" means all.
func (s *Server) SendToDevice(user, device, sender, eventType string, content any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliver(user, device, sender, eventType, encode(content))
}

// ChangeDevices tells everybody who shares a room with the user that the user's
// devices changed. Use it when a hook begins to lie about them.
func (s *Server) ChangeDevices(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[user]; u != nil {
		u.keysPos = s.bumpPosition()
	}
}

// EditDeviceKeys changes the stored keys of a device and tells everybody.
func (s *Server) EditDeviceKeys(user, device string, change func(keys map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[user]; u != nil && u.devices[device] != nil {
		change(u.devices[device].keys)
		u.keysPos = s.bumpPosition()
	}
}

// OneTimeKeyCount returns how many one-time keys a device has on the server.
func (s *Server) OneTimeKeyCount(user, device string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[user]; u != nil && u.devices[device] != nil {
		return len(u.devices[device].oneTimeKeys)
	}
	return 0
}
