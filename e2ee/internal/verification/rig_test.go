package verification

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

const (
	alice = id.UserID("@alice:hs")
	bob   = id.UserID("@bob:hs")
	dm    = id.RoomID("!dm:hs")
)

// start is when every test begins.
func start() time.Time { return time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC) }

func newKey(t *testing.T) id.Ed25519 {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id.Ed25519(wire.Base64(public))
}

// person is one side: a device and what it knows of everybody.
type person struct {
	us    Us
	users map[id.UserID]*trustcache.User
	flow  Flow
	sent  []Message // all that it has sent
	got   *Target   // what it was told to record
	txns  int
}

// world is two sides, and the network between them.
type world struct {
	t    *testing.T
	now  time.Time
	a, b *person
	room id.RoomID
	// tamper changes a message on its way; nil drops it.
	tamper func(from *person, m Message) *Message
}

// aDevice returns a device of a user as a homeserver shows it.
func aDevice(user id.UserID, device id.DeviceID, key id.Ed25519, signed bool) trustcache.Device {
	return trustcache.Device{
		UserID: user, DeviceID: device, Ed25519: key, Curve25519: id.Curve25519(key), Signed: signed,
		Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
	}
}

func aUser(user id.UserID, master id.Ed25519, verified bool, devices ...trustcache.Device) *trustcache.User {
	slices.SortFunc(devices, func(a, b trustcache.Device) int { return strings.Compare(string(a.DeviceID), string(b.DeviceID)) })
	return &trustcache.User{
		UserID: user, Knowledge: trustcache.KnowledgeFresh, Identity: trustcache.Identity{Master: master},
		Pin: trustcache.Pin{Current: master, PinnedMaster: master, Verified: verified, WasVerified: verified}, Devices: devices,
	}
}

// twoUsers returns alice and bob, each with an identity and one device that it has signed.
func twoUsers(t *testing.T) *world {
	t.Helper()
	am, bm, ak, bk := newKey(t), newKey(t), newKey(t), newKey(t)
	side := func(us Us) *person {
		p := &person{us: us, users: map[id.UserID]*trustcache.User{
			alice: aUser(alice, am, us.User == alice, aDevice(alice, "ALICE", ak, true)),
			bob:   aUser(bob, bm, us.User == bob, aDevice(bob, "BOB", bk, true)),
		}}
		p.users[us.User].Own = true
		return p
	}
	return &world{
		t: t, now: start(),
		a: side(Us{User: alice, Device: "ALICE", Ed25519: ak, Master: am, Trusted: true, Signs: true}),
		b: side(Us{User: bob, Device: "BOB", Ed25519: bk, Master: bm, Trusted: true, Signs: true}),
	}
}

// twoDevices returns two devices of alice: the first has her identity, the second has not.
func twoDevices(t *testing.T) *world {
	t.Helper()
	master, k1, k2 := newKey(t), newKey(t), newKey(t)
	side := func(us Us) *person {
		p := &person{us: us, users: map[id.UserID]*trustcache.User{
			alice: aUser(alice, master, us.Trusted, aDevice(alice, "OLD", k1, true), aDevice(alice, "NEW", k2, false)),
		}}
		p.users[alice].Own = true
		return p
	}
	return &world{
		t: t, now: start(),
		a: side(Us{User: alice, Device: "OLD", Ed25519: k1, Master: master, Trusted: true, Signs: true}),
		b: side(Us{User: alice, Device: "NEW", Ed25519: k2, Master: master}),
	}
}

func (w *world) other(p *person) *person {
	if p == w.a {
		return w.b
	}
	return w.a
}

func (w *world) known(p *person) Known {
	them := w.other(p).us.User
	return Known{Now: w.now, Us: p.us, Them: p.users[them]}
}

// request has one side ask the other.
func (w *world) request(p *person) {
	w.t.Helper()
	to := []id.DeviceID{w.other(p).us.Device}
	if w.room != "" {
		to = nil
	}
	f, eff, err := Begin(w.known(p), w.room, "txn", to)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.room != "" {
		f = f.InRoom("$request")
	}
	w.take(p, f, eff)
}

// do has a person decide something.
func (w *world) do(p *person, decide Decide) {
	w.t.Helper()
	f, eff, err := decide(p.flow, w.known(p))
	if err != nil {
		w.t.Fatalf("%s in %s: %v", p.us.Device, p.flow.state, err)
	}
	w.take(p, f, eff)
}

func confirm(match bool) Decide {
	return func(f Flow, k Known) (Flow, Effects, error) { return f.Confirm(k, match) }
}

func scanned(yes bool) Decide {
	return func(f Flow, k Known) (Flow, Effects, error) { return f.Scanned(k, yes) }
}

func scan(t *testing.T, shown []byte) Decide {
	t.Helper()
	c, err := ReadCode(shown)
	if err != nil {
		t.Fatal(err)
	}
	return func(f Flow, k Known) (Flow, Effects, error) { return f.Scan(k, c) }
}

// take lets a side become what it became, and delivers what it sends.
func (w *world) take(p *person, f Flow, eff Effects) {
	w.t.Helper()
	p.flow = f
	for _, m := range eff.Send {
		w.deliver(p, m)
	}
	if eff.Target != nil {
		p.got = eff.Target
		f, last := p.flow.Recorded(w.now, nil)
		p.flow = f
		for _, m := range last.Send {
			w.deliver(p, m)
		}
	}
}

// deliver brings a message to the other side.
func (w *world) deliver(p *person, m Message) {
	w.t.Helper()
	p.sent = append(p.sent, m)
	if w.tamper != nil {
		changed := w.tamper(p, m)
		if changed == nil {
			return
		}
		m = *changed
	}
	to := w.other(p)
	if w.room == "" && !slices.Contains(m.Devices, to.us.Device) {
		return
	}
	w.hear(to, w.event(p.us.User, m))
}

// event makes an event of a message.
func (w *world) event(sender id.UserID, m Message) Event {
	w.t.Helper()
	if w.room == "" {
		ev, ok := OfDevice(m.Type, sender, m.Content)
		if !ok {
			w.t.Fatalf("%s is malformed: %s", m.Type, m.Content)
		}
		return ev
	}
	eventID := "$request"
	if m.Type != "m.room.message" {
		w.a.txns++
		eventID = "$" + strings.Repeat("x", w.a.txns)
	}
	at, err := json.Marshal(w.now.UnixMilli())
	if err != nil {
		w.t.Fatal(err)
	}
	ev, ok := OfRoom(w.room, strictjson.Object{
		text("type", m.Type), text("sender", sender.String()), text("event_id", eventID),
		{Name: "origin_server_ts", Value: at}, {Name: "content", Value: m.Content},
	}.Encode())
	if !ok {
		w.t.Fatalf("%s is malformed: %s", m.Type, m.Content)
	}
	return ev
}

// hear has a side take an event.
func (w *world) hear(p *person, ev Event) {
	w.t.Helper()
	if p.flow.ID == "" {
		f, ok := Asked(p.us, &ev, w.now)
		if !ok {
			return
		}
		p.flow = f
		return
	}
	f, eff := p.flow.Handle(w.known(p), &ev)
	w.take(p, f, eff)
}

// want fails unless both sides are in these states.
func (w *world) want(a, b State) {
	w.t.Helper()
	if w.a.flow.state != a || w.b.flow.state != b {
		w.t.Fatalf("%s is %s (%s), %s is %s (%s); want %s and %s", w.a.us.Device, w.a.flow.state, w.a.flow.code,
			w.b.us.Device, w.b.flow.state, w.b.flow.code, a, b)
	}
}

// wantCancelled fails unless both have ended with a code and nothing was verified.
func (w *world) wantCancelled(code string) {
	w.t.Helper()
	w.want(Cancelled, Cancelled)
	if w.a.flow.code != code || w.b.flow.code != code || w.a.got != nil || w.b.got != nil {
		w.t.Fatalf("ended with %s and %s, want %s; verified %+v, %+v", w.a.flow.code, w.b.flow.code, code, w.a.got, w.b.got)
	}
}

// toCompare brings both to where they compare emoji.
func (w *world) toCompare() {
	w.t.Helper()
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.want(Ready, Ready)
	w.do(w.a, Flow.Emoji)
	w.want(Compare, Compare)
}
