package e2ee_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// An account goes to and fro between two processes in the middle of a conversation. The session
// in use goes on at its next index, what was sent comes once, and neither process goes on with
// what it knew when it had the account before: of sessions, of keys, of others' devices.
func TestHandOverInMidConversation(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a", (*e2ee.Options).CheckLocks), c.join("b", (*e2ee.Options).CheckLocks)
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	bob, own := confirmedPuppet(t, c.hs, "bob", "BOB")
	room := c.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.sync()
	said := bob.newMegolm(room)
	said.share(st.target())
	readers := []*puppet{bob}
	var last header
	for turn, next := range []*rig{b, a, b, a} {
		for n := range 2 {
			h := st.send(room, fmt.Sprint("turn ", turn, " text ", n))
			if last.session == h.session && h.index != last.index+1 {
				t.Errorf("index %d of the session comes after %d", h.index, last.index)
			}
			last = h
			for _, p := range readers {
				reads(t, p, h)
			}
		}
		event := said.say(fmt.Sprint("before ", turn))
		if turn%2 == 0 { // it comes as a late event, to the next process
			st.sync()
		}
		// What the next process hears, the one after that must not have forgotten.
		st.handOver(next)
		st.awaitText(event, fmt.Sprint("before ", turn))
		if turn%2 == 0 {
			more := newPuppet(t, c.hs, "bob", fmt.Sprint("MORE", turn))
			own.confirm(more)
			readers = append(readers, more)
			st.told()
			said = more.newMegolm(room)
		}
		said.share(st.target())
		c.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "org.example.note", map[string]any{"turn": turn})
		st.sync()
		event = said.say(fmt.Sprint("after ", turn))
		st.awaitText(event, fmt.Sprint("after ", turn))
	}
	notes := make(map[any]int)
	for _, ev := range st.heard {
		if ev.Type == "org.example.note" {
			notes[ev.Content["turn"]]++
		}
	}
	for turn := range 4 {
		if n := notes[float64(turn)]; n != 1 {
			t.Errorf("note %d came %d times", turn, n)
		}
	}
	wantNoKeyTwice(t, keyUploads(c.hs))
}

// A send whose answer was lost is repeated at the next process, which sends the same ciphertext
// in the same transaction.
func TestRepeatedAtTheNextProcess(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a", nil), c.join("b", nil)
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	room := c.hs.CreateRoom(true, st.alice.UserID)
	out := st.outgoing(room, "once")
	first, err := st.encrypt(out)
	if err != nil {
		t.Fatal(err)
	}
	event := st.put(out, first)
	st.handOver(b)
	again, err := st.encrypt(out)
	if err != nil {
		t.Fatal(err)
	}
	if string(again.Content) != string(first.Content) || again.TxnID != first.TxnID {
		t.Error("another event is sent")
	}
	if st.put(out, again) != event {
		t.Error("the homeserver has it twice")
	}
}

// Attack: a process is stopped in the middle of everything, others take it for dead, and it goes
// on, with ratchets and one-time keys in its memory and with a sync under way. It uses none of
// its ratchets and moves no position, and what it still uploads was uploaded by nobody else.
func TestStoppedOwnerDoesNoHarm(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.join("a", nil)
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	bob, _ := confirmedPuppet(t, c.hs, "bob", "BOB")
	room := c.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "before"))

	// It stops just before it uploads one-time keys.
	st.drain(bob, keysKept/3)
	refused := len(keyUploads(c.hs))
	gate := liar.NewGate()
	c.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/upload$")), liar.Nth(1, gate.Before))
	stopped := st.dev
	upkeep := make(chan struct{})
	go func() {
		defer close(upkeep)
		stopped.Maintain(context.WithoutCancel(t.Context()))
	}()
	<-gate.Arrived()
	c.takenForDead("a")

	b := c.join("b", func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	old := st.rig
	st.rig = b
	st.dev = st.device(st.alice)
	st.sync() // from now on it syncs when the client does
	reads(t, bob, st.send(room, "by the next one"))
	st.told()
	await(t, "the next one uploads no keys", func() bool {
		st.upkeep()
		return st.keysLeft() > keysKept/2
	})
	c.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "org.example.note", map[string]any{"for": "the owner"})
	before, sent := c.position(st.alice), sentBy(c.hs, st.alice)

	// It goes on.
	gate.Open()
	<-upkeep
	if err := stopped.SyncNow(t.Context()); err == nil {
		t.Error("it could store a sync")
	}
	for _, where := range []string{room, c.hs.CreateRoom(true, st.alice.UserID, bob.UserID)} {
		out := st.outgoing(where, "after")
		if enc, err := stopped.Encrypt(t.Context(), out); err == nil {
			t.Errorf("it gives out %s", enc.Content)
		}
	}
	stopped.Maintain(t.Context())
	if n := sentBy(c.hs, st.alice) - sent; n > 0 {
		t.Errorf("the homeserver got %d messages", n)
	}
	if now := c.position(st.alice); now != before {
		t.Errorf("the position moved from %q to %q", before, now)
	}
	if _, err := old.eng.Own(t.Context(), id.UserID(st.alice.UserID)); !errors.Is(err, store.ErrElsewhere) {
		t.Errorf("it says of the account: %v", err)
	}
	await(t, "it keeps what it had in memory", func() bool {
		devices, _ := old.eng.InMemory()
		return devices == 0
	})
	st.sync()
	if len(st.heard) != 1 {
		t.Errorf("the client heard %v", st.heard)
	}
	reads(t, bob, st.send(room, "by the next one again"))
	wantNoKeyTwice(t, keyUploads(c.hs)[refused:])
}

// sentBy counts the messages to rooms and devices that a user sent.
func sentBy(hs *liar.Server, s liar.Session) int {
	return len(hs.Requests(liar.Of(s.UserID, liar.Is(http.MethodPut, "sendToDevice/")))) +
		len(hs.Requests(liar.Of(s.UserID, liar.Is(http.MethodPut, "/send/m.room.encrypted/"))))
}

// A process that ends hands over what it has: at once what nobody uses, the rest when the last
// request has ended. Syncs of clients that wait end early. What comes meanwhile is fetched by
// the other process, without a request of any client.
func TestDrainedOwner(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.join("a", (*e2ee.Options).CheckLocks)
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	bot := c.hs.Login("bot", "BOT")
	ready(t, a.device(bot))
	b := c.join("b", func(o *e2ee.Options) { o.ClaimEvery = 20 * time.Millisecond })
	if _, err := a.db.Claim(t.Context(), "@sleeper:liar.test"); err != nil { // as in bulk
		t.Fatal(err)
	}
	sending, waiting := a.own(st.alice), a.own(st.alice)
	sync, err := st.dev.BeginSync(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if sync.Waiting() {
		t.Fatal("there is something for the client")
	}
	drained := make(chan error, 1)
	go func() { drained <- a.eng.Drain(context.WithoutCancel(t.Context())) }()
	<-sync.Arrived().Done()
	if late, err := st.dev.BeginSync(t.Context(), ""); err != nil || !late.Waiting() {
		t.Errorf("another sync waits, error %v", err)
	} else {
		late.End()
	}
	sync.End()
	waiting()
	await(t, "what nobody uses is not handed over", func() bool {
		return c.owner(bot.UserID) == at("b") && c.owner("@sleeper:liar.test") == at("b")
	})
	key := newPuppet(t, c.hs, "peer", "PEER").newMegolm("!room:liar.test")
	crew := &crew{rig: b, hs: c.hs}
	key.share(crew.target(bot))
	await(t, "what comes is not fetched", func() bool { return crew.hasKey(bot, key.ID().String()) })
	if _, err := a.eng.Own(t.Context(), id.UserID(bot.UserID)); !errors.Is(err, store.ErrElsewhere) {
		t.Errorf("it claims again: %v", err)
	}
	if where := c.owner(st.alice.UserID); where != at("a") {
		t.Errorf("an account with a request under way is at %q", where)
	}
	room := c.hs.CreateRoom(true, st.alice.UserID)
	st.send(room, "the request that is under way")
	sending()
	if err := <-drained; err != nil {
		t.Error(err)
	}
	await(t, "the last one is not handed over", func() bool { return c.owner(st.alice.UserID) == at("b") })
	if _, err := a.eng.Device(t.Context(), "@new:liar.test", "NEW", secret.NewString("token")); !errors.Is(err, store.ErrElsewhere) {
		t.Errorf("it opens another account: %v", err)
	}
	st.rig = b
	st.dev = st.device(st.alice)
	st.send(room, "at the next one")
}

// Requests that do not end in time do not keep an account: it leaves, and they store nothing.
func TestHandOverDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a", nil), c.join("b", nil)
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	room := c.hs.CreateRoom(true, st.alice.UserID)
	st.send(room, "before")
	done := a.own(st.alice)
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.eng.HandOver(short, id.UserID(st.alice.UserID)); err != nil {
		t.Fatal(err)
	}
	slow := st.dev
	st.rig = b
	st.dev = st.device(st.alice)
	st.send(room, "at the next one")
	if enc, err := slow.Encrypt(t.Context(), st.outgoing(room, "too late")); err == nil {
		t.Errorf("the slow request gives out %s", enc.Content)
	}
	done()
}

// The accounts of a process that died go on receiving, although nobody asks for them.
func TestOrphansGoOnReceiving(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.join("a", nil)
	bot := c.hs.Login("bot", "BOT")
	ready(t, a.device(bot))
	b := c.join("b", func(o *e2ee.Options) { o.ClaimEvery = 20 * time.Millisecond })
	key := newPuppet(t, c.hs, "peer", "PEER").newMegolm("!room:liar.test")
	c.takenForDead("a")
	crew := &crew{rig: b, hs: c.hs}
	await(t, "nobody takes the account", func() bool { return c.owner(bot.UserID) == at("b") })
	key.share(crew.target(bot))
	await(t, "what comes is not fetched", func() bool { return crew.hasKey(bot, key.ID().String()) })
}

// What concerns an account of another process is done by that process: nothing of it is opened
// or written here, and the error says where it is.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a", nil), c.join("b", nil)
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	second := c.hs.Login("alice", "SECOND")
	ctx, user := t.Context(), id.UserID(st.alice.UserID)
	token := secret.NewString(st.alice.Token)
	calls := map[string]func() error{
		"login": func() error {
			return b.eng.LoggedIn(ctx, user, id.DeviceID(second.DeviceID), secret.NewString(second.Token), nil)
		},
		"request":   func() error { _, err := b.eng.Device(ctx, user, "ALICE", token); return err },
		"own keys":  func() error { _, err := b.eng.ClientHasKeys(ctx, user, "ALICE", token); return err },
		"native":    func() error { _, err := b.eng.Native(ctx, user, "ALICE", token, false); return err },
		"refresh":   func() error { return b.eng.Refreshed(ctx, user, "ALICE", secret.NewString("another")) },
		"logout":    func() error { return b.eng.Forget(ctx, user, "ALICE") },
		"log out":   func() error { return b.eng.ForgetAll(ctx, user) },
		"close":     func() error { return b.eng.ForgetAccount(ctx, user) },
		"bad token": func() error { return b.eng.UnknownToken(ctx, user, "ALICE", token, false) },
		"use":       func() error { _, err := b.eng.Own(ctx, user); return err },
	}
	for what, do := range calls {
		var elsewhere *store.ElsewhereError
		if err := do(); !errors.As(err, &elsewhere) || elsewhere.Replica.Advertise != at("a") {
			t.Errorf("%s: %v", what, err)
		}
	}
	acct, err := b.db.LookupAccount(ctx, user)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := b.db.Devices(ctx, acct); err != nil || len(all) != 1 {
		t.Errorf("%d devices are stored: %v", len(all), err)
	}
	if devices, _ := b.eng.InMemory(); devices != 0 {
		t.Errorf("%d devices are in memory", devices)
	}
	// When the owner has given it away, the same login goes through.
	if err := a.eng.HandOver(ctx, user); err != nil {
		t.Fatal(err)
	}
	if err := calls["login"](); err != nil {
		t.Error(err)
	}
	if err := a.eng.LoggedIn(ctx, user, "ALICE", token, nil); !errors.Is(err, store.ErrElsewhere) {
		t.Errorf("a login at the former owner: %v", err)
	}
}

// What a process withheld by its rules is judged again by those of the next one.
func TestNextOwnerJudgesByItsOwnRules(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	receive := func(mode trustcache.Mode) func(*e2ee.Options) {
		return func(o *e2ee.Options) {
			o.Policy = func() trustcache.Policy { return trustcache.Policy{Receive: mode} }
		}
	}
	a, b := c.join("a", receive(trustcache.ModeEnforce)), c.join("b", receive(trustcache.ModeWarn))
	st := stageOn(a, c.hs.Login("alice", "ALICE"))
	bob, _ := confirmedPuppet(t, c.hs, "bob", "BOB")
	odd := newPuppet(t, c.hs, "bob", "ODD")
	room := c.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.sync()
	st.send(room, "now bob is known")
	said := odd.newMegolm(room)
	said.share(st.target())
	event := said.say("withheld at first")
	if code := st.wantHidden(event, "withheld at first"); code != "UnsignedDevice" {
		t.Errorf("refused as %q", code)
	}
	st.handOver(b)
	st.awaitText(event, "withheld at first")
}

// Attack: while one process asks the homeserver whether a room is encrypted, and the homeserver
// denies it, another process learns that it is. Nothing is sent in clear.
func TestRoomIsEncryptedMeanwhileElsewhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.join("a", nil), c.join("b", nil)
	room := id.RoomID("!room:liar.test")
	read := func(ctx context.Context, asked id.RoomID, kind string) (json.RawMessage, error) {
		if kind == "m.room.create" {
			return json.RawMessage("{}"), nil
		}
		if err := b.eng.NoteEncryption(ctx, asked, []byte(`{"algorithm":"m.megolm.v1.aes-sha2"}`)); err != nil {
			t.Error(err)
		}
		return nil, e2ee.ErrNoState
	}
	if how, err := a.eng.RoomEncryption(t.Context(), "@alice:liar.test", room, read); err != nil || how != e2ee.RoomEncrypted {
		t.Errorf("room encryption %d: %v", how, err)
	}
}

// A process that joins is given its share of the accounts that no client uses.
func TestIdleAccountsAreShared(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.join("a", func(o *e2ee.Options) { o.ShareEvery = 20 * time.Millisecond })
	const accounts, inUse = 100, 10
	user := func(n int) id.UserID { return id.UserID(fmt.Sprintf("@user%d:liar.test", n)) }
	for n := range accounts {
		done, err := a.eng.Own(t.Context(), user(n))
		if err != nil {
			t.Fatal(err)
		}
		if n >= inUse { // the others' requests do not end
			done()
		}
	}
	c.join("b", func(o *e2ee.Options) { o.ClaimEvery = 20 * time.Millisecond })
	count := func(name string) (n int) {
		row := c.raw.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM accounts WHERE owner = (SELECT name FROM replicas WHERE advertise = $1)", at(name))
		if err := row.Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	await(t, "the accounts are not shared", func() bool { return count("b") >= accounts/4 && count("a")+count("b") == accounts })
	if count("b") > accounts*3/4 {
		t.Errorf("the one that joined has %d accounts", count("b"))
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for n := range inUse {
		if _, err := a.eng.Own(gone, user(n)); err != nil {
			t.Errorf("an account in use is given away: %v", err)
		}
	}
}
