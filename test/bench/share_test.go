package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

func newReader(raw []byte) io.Reader { return bytes.NewReader(raw) }

// bigRoom is a room of the crowd and one user who writes to it.
type bigRoom struct {
	*stack
	*crowd
	hs *liar.Server
	n  int
}

func newBigRoom(tb testing.TB) *bigRoom {
	tb.Helper()
	return newBigRoomWith(tb, true)
}

// newBigRoomWith is newBigRoom with or without the audit log.
func newBigRoomWith(tb testing.TB, audit bool) *bigRoom {
	tb.Helper()
	hs := liar.New(tb)
	up := newUpstream(tb, hs)
	owner := hs.Login("writer", "FIRST")
	room := hs.CreateRoom(true, owner.UserID)
	path := filepath.Join(tb.TempDir(), "e2ee.db")
	return &bigRoom{stack: newStackOn(tb, up, path, openStoreWith(tb, path, audit), nil), crowd: newCrowd(tb, up, room, owner.UserID), hs: hs}
}

// newRoomOf is newBigRoom with so many people, of whom five have twelve devices.
func newRoomOf(tb testing.TB, people int) *bigRoom {
	tb.Helper()
	hs := liar.New(tb)
	up := newUpstream(tb, hs)
	owner := hs.Login("writer", "FIRST")
	room := hs.CreateRoom(true, owner.UserID)
	crowd := newCrowdOf(tb, up, room, owner.UserID, people, func(user int) int { return 2 + user%5/3 })
	return &bigRoom{stack: newStack(tb, up), crowd: crowd, hs: hs}
}

// writer returns a device of the writer's that has sent nothing yet, of an account that
// knows the crowd.
func (r *bigRoom) writer() *e2ee.Device {
	r.n++
	return r.device(r.hs.Login("writer", fmt.Sprintf("WRITER%d", r.n)))
}

// send encrypts one message, under a key that is new to everybody.
func (r *bigRoom) send(d *e2ee.Device) {
	r.stack.tb.Helper()
	before := r.addressed.Load()
	r.say(d)
	if given := r.addressed.Load() - before; given < int64(len(r.devices)) {
		r.stack.tb.Fatalf("the key was given to %d devices", given)
	}
}

// say encrypts one message.
func (r *bigRoom) say(d *e2ee.Device) {
	r.stack.tb.Helper()
	if err := r.try(d); err != nil {
		r.stack.tb.Fatal(err)
	}
}

func (r *bigRoom) try(d *e2ee.Device) error {
	r.n++
	out := e2ee.Outgoing{RoomID: id.RoomID(r.room), Type: "m.room.message", TxnID: fmt.Sprint("m", r.n), Content: []byte(`{"msgtype":"m.text","body":"hello"}`)}
	_, err := d.Encrypt(context.Background(), out)
	return err
}

// rotate has the next message use a new room key: somebody went and came back.
func (r *bigRoom) rotate(d *e2ee.Device) {
	r.stack.tb.Helper()
	for _, membership := range []string{"leave", "join"} {
		if err := d.NoteMembership(context.Background(), id.RoomID(r.room), id.UserID(r.devices[0].user), membership); err != nil {
			r.stack.tb.Fatal(err)
		}
	}
}

// olmAll is the reference: Olm for 1,000 devices on two cores, and nothing else. A nil
// session is made.
func (c *crowd) olmAll(acc *goolm.Account, sessions []olm.Session) {
	content := bytes.Repeat([]byte("x"), 1500) // as long as a room key in its envelope
	var both sync.WaitGroup
	for half := range 2 {
		both.Go(func() {
			for i := half * crowdSize / 2; i < (half+1)*crowdSize/2; i++ {
				if sessions[i] == nil {
					made, err := acc.NewOutboundSession(c.devices[i].curve25519, c.bare[c.devices[i]])
					if err != nil {
						c.tb.Error(err)
						return
					}
					sessions[i] = made
				}
				if _, _, err := sessions[i].Encrypt(content); err != nil {
					c.tb.Error(err)
				}
			}
		})
	}
	both.Wait()
}

// BenchmarkShare gives a new room key to 1,000 devices: to those with which there is no
// Olm session yet, and to those with which there is one. It ends when all of it is stored
// and the homeserver, which answers at once, has it.
func BenchmarkShare(b *testing.B) {
	b.Run("new-sessions/reference=goolm-2-cores", func(b *testing.B) {
		r := newBigRoom(b)
		acc := newAccount(b)
		var m meter
		for b.Loop() {
			m.measure(func() { r.olmAll(acc, make([]olm.Session, crowdSize)) })
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
	b.Run("new-sessions/e2ee-proxy", func(b *testing.B) {
		r := newBigRoom(b)
		r.send(r.writer()) // the account knows the crowd from now on
		var m meter
		for b.Loop() {
			b.StopTimer()
			d := r.writer()
			b.StartTimer()
			m.measure(func() { r.send(d) })
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
	b.Run("old-sessions/reference=goolm-2-cores", func(b *testing.B) {
		r := newBigRoom(b)
		acc, sessions := newAccount(b), make([]olm.Session, crowdSize)
		r.olmAll(acc, sessions)
		var m meter
		for b.Loop() {
			m.measure(func() { r.olmAll(acc, sessions) })
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
	b.Run("old-sessions/e2ee-proxy", func(b *testing.B) {
		r := newBigRoom(b)
		d := r.writer()
		r.send(d)
		var m meter
		for b.Loop() {
			b.StopTimer()
			r.rotate(d)
			b.StartTimer()
			m.measure(func() { r.send(d) })
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
}

// BenchmarkShareAudit is what the audit log adds to a share with 1,000 devices: the same with
// it and without, in turn. The processor time is that of both cores.
func BenchmarkShareAudit(b *testing.B) {
	var with, without meter
	rooms := map[*meter]*bigRoom{&with: newBigRoomWith(b, true), &without: newBigRoomWith(b, false)}
	writers := make(map[*meter]*e2ee.Device)
	for m, r := range rooms {
		writers[m] = r.writer()
		r.send(writers[m])
	}
	for i := 0; b.Loop(); i++ {
		order := []*meter{&with, &without}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, m := range order {
			b.StopTimer()
			rooms[m].rotate(writers[m])
			b.StartTimer()
			m.measure(func() { rooms[m].send(writers[m]) })
		}
	}
	b.ReportMetric(with.perUnit(1)/1e3, "cpu-ms-with")
	b.ReportMetric(without.perUnit(1)/1e3, "cpu-ms-without")
	b.ReportMetric(with.p50()/1e3, "p50-ms-with")
	b.ReportMetric(without.p50()/1e3, "p50-ms-without")
	plain(b)
}

func newAccount(b *testing.B) *goolm.Account {
	acc, err := goolm.NewAccount()
	if err != nil {
		b.Fatal(err)
	}
	return acc
}

// A room key for 1,000 devices takes a bounded number of requests, whatever the number of
// users: two claims of 500 devices, four deliveries of 250, and no claim for those with
// which there is an Olm session. A message under the same key takes none.
func TestShareInFewRequests(t *testing.T) {
	r := newBigRoom(t)
	d := r.writer()
	r.send(d)
	if claims, sent, to := r.claims.Load(), r.deliveries.Load(), r.addressed.Load(); claims != 2 || sent != 4 || to != crowdSize {
		t.Errorf("new sessions took %d claims and %d deliveries to %d devices", claims, sent, to)
	}
	r.rotate(d)
	r.send(d)
	if claims, sent, to := r.claims.Load(), r.deliveries.Load(), r.addressed.Load(); claims != 2 || sent != 8 || to != 2*crowdSize {
		t.Errorf("after a rotation it is %d claims and %d deliveries to %d devices", claims, sent, to)
	}
	r.say(d)
	if sent := r.deliveries.Load(); sent != 8 {
		t.Errorf("a message under the same key brought the deliveries to %d", sent)
	}
}

// A new room key, who was given it, the Olm sessions that carry it, and the messages with it
// are one write: when the last of them is refused, none of the others is there.
func TestShareIsOneWrite(t *testing.T) {
	r := newBigRoom(t)
	d := r.writer()
	raw, err := sql.Open("sqlite", r.path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	count := func(table string) (n int) {
		if err := raw.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	do := func(statement string) {
		if _, err := raw.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	sessions := count("olm_sessions")
	shares, keys := count("share_lists"), count("outbound_sessions")
	do("CREATE TRIGGER refuse BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'refused'); END")
	if err := r.try(d); err == nil {
		t.Fatal("a message was encrypted though its key could not be stored")
	}
	if n := count("share_lists"); n != shares {
		t.Error("devices are noted as having the key")
	}
	if n := count("outbound_sessions"); n != keys {
		t.Error("the key is stored, and nobody has it")
	}
	if n := count("olm_sessions"); n != sessions {
		t.Errorf("there are %d Olm sessions, %d before", n, sessions)
	}
	if sent := r.deliveries.Load(); sent != 0 {
		t.Errorf("%d requests left", sent)
	}
	do("DROP TRIGGER refuse")
	r.send(d)
	if n := count("share_lists"); n != shares+1 {
		t.Errorf("it was noted %d times who has the key", n-shares)
	}
	if n := count("olm_sessions"); n != sessions+crowdSize {
		t.Errorf("there are %d Olm sessions, %d before", n, sessions)
	}
}
