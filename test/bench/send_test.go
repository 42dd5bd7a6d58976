package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/liar"
)

// BenchmarkSend sends messages of one client into a plain room and into an encrypted one
// of five people, in turns, and writes and syncs as many bytes to the same disk: an
// encrypted send cannot be faster than that, because the ratchet must be safe before the
// ciphertext leaves.
func BenchmarkSend(b *testing.B) {
	hs := liar.New(b)
	up := newUpstream(b, hs)
	s := newStack(b, up)
	who := hs.Login("alice", "ALICE")
	users := make([]string, 0, 5)
	for i := range 4 {
		users = append(users, newSender(b, hs, fmt.Sprintf("friend%d", i)).user)
	}
	users = append([]string{who.UserID}, users...)
	rooms := map[bool]string{true: hs.CreateRoom(true, users...), false: hs.CreateRoom(false, users...)}
	s.device(who)
	cli := newClient(b, s.url, who.Token)
	disk := newDisk(b)
	paths := make(map[bool]string)
	for encrypted, room := range rooms {
		paths[encrypted] = "rooms/" + url.PathEscape(room) + "/send/"
		answers := map[bool]http.HandlerFunc{true: text([]byte(`{"event_id":"$sent"}`)), false: http.NotFound}
		up.below(http.MethodPut, "/_matrix/client/v3/"+paths[encrypted]+"m.room.encrypted/", answers[encrypted])
		up.below(http.MethodPut, "/_matrix/client/v3/"+paths[encrypted]+"m.room.message/", answers[!encrypted])
	}
	n := 0
	send := func(encrypted bool) {
		n++
		cli.do(http.MethodPut, fmt.Sprintf("%sm.room.message/m%d", paths[encrypted], n),
			fmt.Appendf(nil, `{"msgtype":"m.text","body":"message %d %s"}`, n, strings.Repeat("x", 60)), nil)
	}
	for range 20 {
		send(false)
		send(true)
	}
	var plainly, sealed, synced meter
	b.ResetTimer()
	for b.Loop() {
		plainly.measure(func() { send(false) })
		sealed.measure(func() { send(true) })
		synced.measure(disk.write)
	}
	b.ReportMetric(plainly.p50(), "plain-p50-µs")
	b.ReportMetric(sealed.p50(), "encrypted-p50-µs")
	b.ReportMetric(synced.p50(), "fsync-p50-µs")
	plain(b)
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
