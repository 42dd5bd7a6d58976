package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/store"
)

// BenchmarkSend sends messages of one client into a plain room and into an encrypted one
// of five people, in turns, and writes and syncs as many bytes to the same disk: an
// encrypted send cannot be faster than that, because the ratchet must be safe before the
// ciphertext leaves. Each goes first as often as the others: what comes after a write finds
// the processors asleep.
func BenchmarkSend(b *testing.B) {
	path := filepath.Join(b.TempDir(), "e2ee.db")
	s := newSending(b, openStore(b, path))
	disk := newDisk(b)
	var plainly, sealed, synced meter
	turns := []func(){
		func() { plainly.measure(func() { s.send(false) }) },
		func() { sealed.measure(func() { s.send(true) }) },
		func() { synced.measure(disk.write) },
	}
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		order := slices.Clone(turns)
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for j := range order {
			order[(i/2+j)%len(order)]()
		}
	}
	b.ReportMetric(plainly.p50(), "plain-p50-µs")
	b.ReportMetric(sealed.p50(), "encrypted-p50-µs")
	b.ReportMetric(sealed.p50()-plainly.p50(), "added-p50-µs")
	b.ReportMetric(sealed.perUnit(1)-plainly.perUnit(1), "added-cpu-µs")
	b.ReportMetric(synced.p50(), "fsync-p50-µs")
	plain(b)
}

// BenchmarkSendOnPostgreSQL sends into an encrypted room as a replica on PostgreSQL, and on
// SQLite, in turns. Both wait for the disk.
func BenchmarkSendOnPostgreSQL(b *testing.B) {
	server := testpg.Server{Durable: true}
	b.Cleanup(func() {
		if err := server.Stop(); err != nil {
			b.Error(err)
		}
	})
	replica := newSending(b, openReplica(b, server.Database(b)))
	lite := newSending(b, openStore(b, filepath.Join(b.TempDir(), "e2ee.db")))
	var there, here meter
	b.ResetTimer()
	for b.Loop() {
		there.measure(func() { replica.send(true) })
		here.measure(func() { lite.send(true) })
	}
	b.ReportMetric(there.p50(), "postgresql-p50-µs")
	b.ReportMetric(here.p50(), "sqlite-p50-µs")
	plain(b)
}

// sending is a client with a plain room and an encrypted one of five people.
type sending struct {
	cli   *client
	paths map[bool]string // by whether the room is encrypted
	n     int

	room   id.RoomID    // the encrypted one, where it is needed
	device *e2ee.Device // likewise
}

// newSending makes one on an empty database, and has it send until nothing is new.
func newSending(b *testing.B, db *store.DB) *sending {
	b.Helper()
	hs := liar.New(b)
	up := newUpstream(b, hs)
	stack := newStackOn(b, up, "", db, nil)
	who := hs.Login("alice", "ALICE")
	users := []string{who.UserID}
	for i := range 4 {
		users = append(users, newSender(b, hs, fmt.Sprintf("friend%d", i)).user)
	}
	stack.device(who)
	s := &sending{cli: newClient(b, stack.url, who.Token), paths: make(map[bool]string)}
	for _, encrypted := range []bool{true, false} {
		s.paths[encrypted] = "rooms/" + url.PathEscape(hs.CreateRoom(encrypted, users...)) + "/send/"
		answers := map[bool]http.HandlerFunc{true: text([]byte(`{"event_id":"$sent"}`)), false: http.NotFound}
		up.below(http.MethodPut, "/_matrix/client/v3/"+s.paths[encrypted]+"m.room.encrypted/", answers[encrypted])
		up.below(http.MethodPut, "/_matrix/client/v3/"+s.paths[encrypted]+"m.room.message/", answers[!encrypted])
	}
	for range 20 {
		s.send(false)
		s.send(true)
	}
	return s
}

func (s *sending) send(encrypted bool) {
	s.n++
	s.cli.do(http.MethodPut, fmt.Sprintf("%sm.room.message/m%d", s.paths[encrypted], s.n),
		fmt.Appendf(nil, `{"msgtype":"m.text","body":"message %d %s"}`, s.n, strings.Repeat("x", 60)), nil)
}

// disk is a file that grows like a database's log.
type disk struct {
	b    *testing.B
	f    *os.File
	page []byte
}

func newDisk(b *testing.B) *disk {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return &disk{b, f, make([]byte, 8192)}
}

func (d *disk) write() {
	_, err := d.f.Write(d.page)
	if err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		d.b.Fatal(err)
	}
}
