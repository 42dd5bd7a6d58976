package e2ee_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// restless visits the devices that sleep all the time.
func restless(o *e2ee.Options) { o.Round = 50 * time.Millisecond }

// sends has a member of the crew send into a room, as the proxy does, and returns the
// header.
func (c *crew) sends(s liar.Session, room, txn string) header {
	c.t.Helper()
	out := e2ee.Outgoing{RoomID: idRoom(room), Type: "m.room.message", TxnID: txn, Content: []byte(`{"msgtype":"m.text","body":"hello"}`)}
	dev := c.device(s)
	if how, err := dev.RoomEncryption(c.t.Context(), out.RoomID); err != nil || how != e2ee.RoomEncrypted {
		c.t.Fatalf("room encryption %d: %v", how, err)
	}
	made, err := dev.Encrypt(c.t.Context(), out)
	if err != nil {
		c.t.Fatal(err)
	}
	call(c.t, c.hs, s, http.MethodPut, "rooms/"+room+"/send/m.room.encrypted/"+txn, made.Content, nil)
	return headerOf(c.t, made.Content)
}

// Devices that were used, and are not any more, leave memory, however many may be awake.
// What comes for them is fetched, and with their next use they go on with the session that
// they had, and with none of its indices twice.
func TestUsedDevicesLeaveMemory(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 3, restless)
	peer, _ := confirmedPuppet(t, c.hs, "peer", "PEER")
	room := c.hs.CreateRoom(true, c.sessions[0].UserID, c.sessions[1].UserID, c.sessions[2].UserID, peer.UserID)
	before := make([]header, len(c.sessions))
	for i, s := range c.sessions {
		before[i] = c.sends(s, room, fmt.Sprint("before", i))
	}
	c.later(29 * time.Minute)
	c.device(c.sessions[0])
	c.later(2 * time.Minute)
	await(t, "devices that nobody uses stay in memory", c.inMemory(1, 1))
	key := peer.newMegolm("!room:liar.test")
	for _, s := range c.sessions {
		key.share(c.target(s))
	}
	await(t, "what comes for them is not fetched", func() bool {
		return c.hasKey(c.sessions[1], key.ID().String()) && c.hasKey(c.sessions[2], key.ID().String())
	})
	await(t, "they stay in memory after that", c.inMemory(1, 1))
	for i, s := range c.sessions {
		after := c.sends(s, room, fmt.Sprint("after", i))
		if after.session != before[i].session || after.index != before[i].index+1 {
			t.Errorf("device %d went on with %+v after %+v", i, after, before[i])
		}
		reads(t, peer, after)
	}
	wantNoIndexTwice(t, c.hs)
	await(t, "devices that are used are not in memory", c.inMemory(3, 3))
}

// A sync of a client that waits is use, however long it waits.
func TestWaitingSyncKeepsItsDevice(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 2, restless)
	in, err := c.device(c.sessions[0]).BeginSync(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	c.later(2 * time.Hour)
	await(t, "the other stays in memory", c.inMemory(1, 1))
	in.End()
	c.later(time.Hour)
	await(t, "it stays in memory after the sync", c.inMemory(0, 0))
}

// Whoever still has a device that left memory can use no ratchet of it: there may be
// another by then.
func TestDeviceThatLeftStoresNothing(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 1, restless)
	room := c.hs.CreateRoom(true, c.sessions[0].UserID)
	c.sends(c.sessions[0], room, "first")
	old := c.device(c.sessions[0])
	c.later(time.Hour)
	await(t, "it stays in memory", c.inMemory(0, 0))
	out := e2ee.Outgoing{RoomID: idRoom(room), Type: "m.room.message", TxnID: "old", Content: []byte(`{"msgtype":"m.text","body":"x"}`)}
	if made, err := old.Encrypt(t.Context(), out); err == nil || made.Content != nil {
		t.Errorf("it encrypts: %s, %v", made.Content, err)
	}
	c.sends(c.sessions[0], room, "new")
	wantNoIndexTwice(t, c.hs)
}

// Somebody who lost the Olm session, and with it perhaps the room's key, begins another
// while the device sleeps. It is given the key again with the next message, although the
// device has left memory in between.
func TestLossIsRememberedWhenADeviceLeaves(t *testing.T) {
	t.Parallel()
	c := newCrew(t, 1, restless)
	peer, _ := confirmedPuppet(t, c.hs, "peer", "PEER")
	room := c.hs.CreateRoom(true, c.sessions[0].UserID, peer.UserID)
	first := c.sends(c.sessions[0], room, "first")
	c.later(time.Hour)
	await(t, "it stays in memory", c.inMemory(0, 0))
	peer.forget()
	marker := peer.newMegolm("!room:liar.test")
	peer.sessions[c.target(c.sessions[0]).curve25519] = nil
	marker.share(c.target(c.sessions[0]))
	await(t, "what comes is not fetched", func() bool { return c.hasKey(c.sessions[0], marker.ID().String()) })
	await(t, "it stays in memory after that", c.inMemory(0, 0))
	h := c.sends(c.sessions[0], room, "second")
	if h.session != first.session {
		t.Error("the room got another session")
	}
	reads(t, peer, h)
}

// The lists of rooms' members in memory are bounded over all devices. One that was dropped
// is fetched again, and who may read is the same.
func TestMemberListsAreBounded(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.CachedMembers, o.OwnSyncAfter = 5, time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	var rooms []string
	for range 4 {
		rooms = append(rooms, st.hs.CreateRoom(true, st.alice.UserID, bob.UserID))
	}
	for i, room := range rooms {
		if asked := st.asksFor(func() { reads(t, bob, st.send(room, fmt.Sprint("first ", i))) }); asked != 1 {
			t.Errorf("%d lists for a first message", asked)
		}
	}
	sent := 0
	asks := func(room int) int {
		sent++
		return st.asksFor(func() { reads(t, bob, st.send(rooms[room], fmt.Sprint("again ", sent))) })
	}
	// Two lists of two stay. Each that is fetched takes the place of the one that was not used
	// for longest, which goes a moment later.
	for _, dropped := range []int{0, 2, 0, 1} {
		if asked := asks(3); asked != 0 {
			t.Errorf("%d lists for a room that was used last", asked)
		}
		await(t, "more than two lists stay in memory", func() bool { return asks(dropped) == 1 })
	}
}

// stuck is a transport whose requests for keys do not end, whatever is told them.
type stuck struct {
	http.RoundTripper
	asked   chan struct{}
	release chan struct{}
}

func (s *stuck) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost && r.Header.Get("Stuck") == "" && len(r.URL.Path) > 11 && r.URL.Path[len(r.URL.Path)-11:] == "/keys/query" {
		select {
		case s.asked <- struct{}{}:
		default:
		}
		<-s.release
	}
	return s.RoundTripper.RoundTrip(r)
}

// The process is told to end while a query for keys hangs, and nothing ends it: stopping
// does not wait for it longer than it may.
func TestStoppingIsBounded(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	s := hs.Login("alice", "ALICE")
	hang := &stuck{RoundTripper: http.DefaultTransport, asked: make(chan struct{}, 1), release: make(chan struct{})}
	r := newRig(t, hs, nil)
	ready(t, r.device(s))
	r.stop()
	r.opts = func(o *e2ee.Options) { o.Client = &http.Client{Transport: hang} }
	r.start()
	if _, err := r.eng.Device(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token)); err != nil {
		t.Fatal(err)
	}
	<-hang.asked
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if err := r.eng.Close(ctx); err == nil {
		t.Error("it says that all has ended")
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	// Whoever sets no bound gets one.
	ended := make(chan error, 1)
	go func() { ended <- r.eng.Close(context.Background()) }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it says that all has ended")
		}
	case <-time.After(30 * time.Second):
		t.Error("it is still stopping after 30 s")
	}
	close(hang.release)
	if err := r.eng.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// All workers wait for a homeserver that is slow, and a contact's identity changes: the
// client's waiting sync is woken all the same.
func TestAlertsDoNotWaitForMaintenance(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.Workers = 1 })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	settle(t, st.dev)
	gate := liar.NewGate()
	defer gate.Open()
	carol := st.hs.Login("carol", "CAROL")
	st.hs.Intercept(liar.Of(carol.UserID, liar.Is(http.MethodPost, "keys/upload$")), gate.Before)
	st.device(carol)
	<-gate.Arrived() // the only worker is busy
	st.sync()
	in, err := st.dev.BeginSync(t.Context(), st.since)
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	st.dev.Outdate(bob.UserID)
	if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-in.Arrived().Done():
	case <-time.After(20 * time.Second):
		t.Error("the waiting sync was not woken")
	}
}
