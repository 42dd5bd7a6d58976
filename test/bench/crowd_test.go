package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"
)

const (
	crowdUsers = 250
	crowdEach  = 4
	crowdSize  = crowdUsers * crowdEach
)

// crowd are the signed devices of people in one room, 1,000 of 250 unless said otherwise. What the
// homeserver says of them is written down beforehand.
type crowd struct {
	tb   testing.TB
	up   *upstream
	room string

	devices []*peer
	keys    map[string][3]json.RawMessage                    // devices, master and self-signing key of each user
	oneTime map[string]map[string]map[string]json.RawMessage // the same one each time
	bare    map[*peer]id.Curve25519                          // the same, unsigned

	claims, deliveries, addressed atomic.Int64
	buffers                       sync.Pool // of *[64 << 10]byte
}

func newCrowd(tb testing.TB, up *upstream, room, sender string) *crowd {
	tb.Helper()
	return newCrowdOf(tb, up, room, sender, crowdUsers, func(int) int { return crowdEach })
}

// newCrowdOf is newCrowd with other numbers of users, and of the devices of each.
func newCrowdOf(tb testing.TB, up *upstream, room, sender string, users int, devicesOf func(user int) int) *crowd {
	tb.Helper()
	c := &crowd{
		tb: tb, up: up, room: room, keys: make(map[string][3]json.RawMessage, users),
		oneTime: make(map[string]map[string]map[string]json.RawMessage), bare: make(map[*peer]id.Curve25519),
		buffers: sync.Pool{New: func() any { return new([64 << 10]byte) }},
	}
	members := []obj{member(sender)}
	for i := range users {
		one := newIdentity(tb, fmt.Sprintf("@crowd%d:liar.test", i))
		members = append(members, member(one.user))
		own := obj{}
		c.oneTime[one.user] = make(map[string]map[string]json.RawMessage)
		for n := range devicesOf(i) {
			p := one.newPeer(fmt.Sprintf("DEVICE%d", n))
			own[p.device] = p.deviceKeys()
			c.devices = append(c.devices, p)
			c.oneTime[one.user][p.device] = make(map[string]json.RawMessage)
			for name, key := range p.oneTimeKey() {
				c.oneTime[one.user][p.device][name] = marshal(tb, key)
				c.bare[p] = id.Curve25519(key.(obj)["key"].(string))
			}
		}
		c.keys[one.user] = [3]json.RawMessage{marshal(tb, own), marshal(tb, one.masterKey()), marshal(tb, one.selfSigningKey())}
	}
	up.on(http.MethodPost, "/_matrix/client/v3/keys/query", c.query)
	up.on(http.MethodPost, "/_matrix/client/v3/keys/claim", c.claim)
	up.below(http.MethodPut, "/_matrix/client/v3/sendToDevice/m.room.encrypted/", c.deliver)
	up.on(http.MethodGet, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/members", text(marshal(tb, obj{"chunk": members})))
	return c
}

func member(user string) obj {
	return obj{"type": "m.room.member", "state_key": user, "sender": user, "content": obj{"membership": "join"}}
}

// query answers for users of the crowd, and lets the homeserver answer for others, of whom a query can
// be as well.
func (c *crowd) query(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Keys map[string]json.RawMessage `json:"device_keys"`
	}
	raw := c.read(r, &asked)
	answer, others := [3]bytes.Buffer{}, false
	for user := range asked.Keys {
		keys, ok := c.keys[user]
		if !ok {
			others = true
			continue
		}
		for i := range answer {
			if answer[i].Len() > 0 {
				answer[i].WriteByte(',')
			}
			fmt.Fprintf(&answer[i], "%q:%s", user, keys[i])
		}
	}
	whole := fmt.Appendf(nil, `{"device_keys":{%s},"master_keys":{%s},"self_signing_keys":{%s}}`, &answer[0], &answer[1], &answer[2])
	switch {
	case !others:
		text(whole)(w, r)
	case answer[0].Len() == 0:
		c.pass(w, r, raw)
	default:
		rec := httptest.NewRecorder()
		c.pass(rec, r, raw)
		var theirs, ours map[string]map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(rec.Body.Bytes(), &theirs), json.Unmarshal(whole, &ours)); err != nil {
			c.tb.Error(err)
		}
		for part, users := range theirs {
			maps.Copy(users, ours[part])
			ours[part] = users
		}
		text(marshal(c.tb, ours))(w, r)
	}
}

// claim hands out the same keys to everybody. Devices that are not of the crowd get a key
// when they are asked for alone, and none otherwise: the writer's other ones.
func (c *crowd) claim(w http.ResponseWriter, r *http.Request) {
	c.claims.Add(1)
	var asked struct {
		Keys map[string]map[string]string `json:"one_time_keys"`
	}
	raw := c.read(r, &asked)
	out := make(map[string]map[string]map[string]json.RawMessage, len(asked.Keys))
	for user, devices := range asked.Keys {
		if c.keys[user][0] == nil && len(asked.Keys) == 1 {
			c.pass(w, r, raw)
			return
		}
		out[user] = make(map[string]map[string]json.RawMessage, len(devices))
		for device := range devices {
			out[user][device] = c.oneTime[user][device]
		}
	}
	text(marshal(c.tb, obj{"one_time_keys": out}))(w, r)
}

func (c *crowd) deliver(w http.ResponseWriter, r *http.Request) {
	c.deliveries.Add(1)
	// Counted while it comes, not parsed or kept: that would take as long as what is measured.
	buf := c.buffers.Get().(*[64 << 10]byte)
	defer c.buffers.Put(buf)
	mark := []byte(`"algorithm":"m.olm.v1`)
	for kept := 0; ; {
		n, err := r.Body.Read(buf[kept:])
		c.addressed.Add(int64(bytes.Count(buf[:kept+n], mark)))
		if err == io.EOF {
			break
		}
		if err != nil {
			c.tb.Error(err)
			break
		}
		// What may be the beginning of a mark is looked at again.
		n += kept
		kept = min(n, len(mark)-1)
		copy(buf[:], buf[n-kept:n])
	}
	text([]byte(`{}`))(w, r)
}

func (c *crowd) read(r *http.Request, into any) []byte {
	raw, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		c.tb.Error(err)
	}
	return raw
}

// pass lets the homeserver behind answer.
func (c *crowd) pass(w http.ResponseWriter, r *http.Request, raw []byte) {
	r.Body = io.NopCloser(newReader(raw))
	c.up.behind.ServeHTTP(w, r)
}
