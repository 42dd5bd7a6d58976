package e2ee_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// crew are devices of as many users behind one engine.
type crew struct {
	*rig
	hs       *liar.Server
	sessions []liar.Session
}

func newCrew(t *testing.T, n int, change func(*e2ee.Options)) *crew {
	t.Helper()
	hs := liar.New(t)
	c := &crew{rig: newRig(t, hs, change), hs: hs}
	for i := range n {
		s := hs.Login(fmt.Sprintf("crew%d", i), "CREW")
		ready(t, c.device(s))
		c.sessions = append(c.sessions, s)
	}
	return c
}

// sleepy lets one device be awake, and visits the others all the time.
func sleepy(o *e2ee.Options) { o.Awake, o.Round = 1, 50*time.Millisecond }

func (c *crew) inMemory(devices, awake int) func() bool {
	return func() bool {
		d, a := c.eng.InMemory()
		return d == devices && a == awake
	}
}

// opens reports whether each member of the crew can read an event, as far as the database says.
func (c *crew) hasKey(s liar.Session, ref string) bool {
	c.t.Helper()
	acct, err := c.db.LookupAccount(c.t.Context(), id.UserID(s.UserID))
	if err != nil {
		c.t.Fatal(err)
	}
	dev, err := c.db.Device(c.t.Context(), acct, id.DeviceID(s.DeviceID))
	if err != nil {
		c.t.Fatal(err)
	}
	for key, err := range c.db.AllInboundSessions(c.t.Context(), acct, dev.ID) {
		if err != nil {
			c.t.Fatal(err)
		}
		if key.SessionID.String() == ref {
			return true
		}
	}
	return false
}

// target returns the keys of a member of the crew, as the homeserver shows them.
func (c *crew) target(s liar.Session) target {
	c.t.Helper()
	var resp struct {
		Devices map[string]map[string]struct {
			Keys map[string]string `json:"keys"`
		} `json:"device_keys"`
	}
	call(c.t, c.hs, s, http.MethodPost, "keys/query", map[string]any{"device_keys": map[string]any{s.UserID: []string{}}}, &resp)
	keys := resp.Devices[s.UserID][s.DeviceID].Keys
	return target{s.UserID, s.DeviceID, id.Ed25519(keys["ed25519:"+s.DeviceID]), id.Curve25519(keys["curve25519:"+s.DeviceID])}
}

// What is sent to devices that nobody uses is fetched and stored, also what was sent while
// the process was not there, and the devices do not stay in memory for it.
func TestSleepingDevicesGetWhatIsSent(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 4, sleepy)
	p, _ := confirmedPuppet(t, c.hs, "peer", "PEER")
	keys := make([]*megolm, 2)
	send := func(n int) {
		keys[n] = p.newMegolm(fmt.Sprintf("!room%d:liar.test", n))
		for _, s := range c.sessions {
			keys[n].share(c.target(s))
		}
	}
	c.stop()
	send(0)
	c.start()
	got := func(n int) func() bool {
		return func() bool {
			for _, s := range c.sessions {
				if !c.hasKey(s, keys[n].ID().String()) {
					return false
				}
			}
			return true
		}
	}
	await(t, "what came while the process was not there is not fetched", got(0))
	await(t, "devices that nobody uses stay in memory", c.inMemory(1, 1))
	send(1)
	await(t, "what comes for devices that sleep is not fetched", got(1))
	await(t, "devices that were visited stay in memory", c.inMemory(1, 1))
}

// A device that is used is awake at once, and the one that was used longest ago goes to
// sleep; both can send, and stay the only ones with their keys.
func TestTheDevicesUsedLastAreAwake(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3, sleepy)
	c.restart()
	await(t, "devices that nobody uses stay in memory", c.inMemory(1, 1))
	room := c.hs.CreateRoom(true, c.sessions[0].UserID, c.sessions[1].UserID, c.sessions[2].UserID)
	for round := range 2 {
		for i, s := range c.sessions {
			d := c.device(s)
			if _, awake := c.eng.InMemory(); awake != 1 {
				t.Errorf("%d devices are awake", awake)
			}
			out := e2ee.Outgoing{
				RoomID: idRoom(room), Type: "m.room.message", TxnID: fmt.Sprint(round, i), Content: []byte(`{"msgtype":"m.text","body":"hello"}`),
			}
			made, err := d.Encrypt(t.Context(), out)
			if err != nil {
				t.Fatal(err)
			}
			c.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: s.UserID, Content: made.Content})
		}
	}
	wantNoIndexTwice(t, c.hs)
	await(t, "devices that were used do not stay", c.inMemory(3, 1))
}

// A start with many devices does not fall on the homeserver with all of them at once, and
// does not wait for it.
func TestStartIsBounded(t *testing.T) {
	t.Parallel()
	const devices, visits = 12, 3
	c := newCrew(t, devices, func(o *e2ee.Options) { o.Visits = visits })
	c.stop()
	var mu sync.Mutex
	now, most, all := 0, 0, make(map[string]bool)
	gate := liar.NewGate()
	isSync := liar.Is(http.MethodGet, "sync")
	remove := c.hs.Intercept(isSync, func(r *liar.Request, next func() liar.Reply) liar.Reply {
		if !strings.Contains(r.Query, "timeout=0") {
			return next() // one that waits: of a device that was visited
		}
		mu.Lock()
		now++
		most = max(most, now)
		all[r.UserID] = true
		mu.Unlock()
		defer func() { mu.Lock(); now--; mu.Unlock() }()
		return gate.Before(r, next)
	})
	defer remove()
	c.start() // returns while the homeserver answers nothing
	await(t, "no device is visited", func() bool { mu.Lock(); defer mu.Unlock(); return now == visits })
	d := c.device(c.sessions[devices-1]) // does not wait for its turn
	if d.Mode() != e2ee.ModeProxied {
		t.Error("a device that is used is not there")
	}
	gate.Open()
	await(t, "not every device is visited", func() bool { mu.Lock(); defer mu.Unlock(); return len(all) >= devices-1 })
	if most > visits {
		t.Errorf("%d devices were visited at the same time", most)
	}
}

// A homeserver that is down when the process starts is asked again.
func TestVisitsAreRepeated(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 2, sleepy)
	p, _ := confirmedPuppet(t, c.hs, "peer", "PEER")
	c.stop()
	key := p.newMegolm("!room:liar.test")
	for _, s := range c.sessions {
		key.share(c.target(s))
	}
	remove := c.hs.Intercept(liar.Is(http.MethodGet, "sync"), liar.Fail(http.StatusBadGateway, "M_UNKNOWN"))
	c.start()
	await(t, "no device is visited", func() bool { return len(c.hs.Requests(liar.Is(http.MethodGet, "sync"))) > 4 })
	remove()
	await(t, "the messages are not fetched", func() bool {
		return c.hasKey(c.sessions[0], key.ID().String()) && c.hasKey(c.sessions[1], key.ID().String())
	})
}
