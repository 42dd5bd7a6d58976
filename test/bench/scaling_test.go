package main

import (
	"bytes"
	"fmt"
	"net/http"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// BenchmarkScaling does the same work once, ten times and a hundred times over. What is compared is
// processor time, which includes that of the client and the homeserver, and grows with the work
// where nothing is done for each part once for all others.
func BenchmarkScaling(b *testing.B) {
	for i, times := range []int{1, 10, 100} {
		name := fmt.Sprintf("/x%d", times)
		loops := []int{20, 5, 1}[i]
		b.Run("events-of-a-sync"+name, func(b *testing.B) { scaleEvents(b, 50*times, loops) })
		b.Run("devices-of-a-key-share"+name, func(b *testing.B) { scaleShare(b, 50*times, loops) })
		b.Run("rooms-of-an-account"+name, func(b *testing.B) { scaleRooms(b, 20*times, loops) })
		b.Run("accounts-of-a-process"+name, func(b *testing.B) { scaleAccounts(b, 100*times) })
	}
}

// report tells what the work cost, and by how much the heap grew at most.
func (m *meter) report(b *testing.B, peak int64) {
	b.Helper()
	b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
	b.ReportMetric(m.p50()/1e3, "p50-ms")
	if peak > 0 {
		b.ReportMetric(float64(peak)/1e6, "heap-MB")
	}
	plain(b)
}

func scaleEvents(b *testing.B, events, loops int) {
	b.Helper()
	r, up := newReaders(b, events, nil)
	body := bigSync(r.talk, events*(syncSize/syncEvents))
	var m meter
	for b.Loop() {
		for range loops {
			b.StopTimer()
			_, who := r.next()
			cli := newClient(b, r.url, who.Token)
			var first bytes.Buffer
			cli.do(http.MethodGet, "sync?timeout=0", nil, &first)
			since := nextBatch(b, first.Bytes())
			answerSync(up, r.hs, who.Token, since, text(body))
			b.StartTimer()
			m.measure(func() { cli.do(http.MethodGet, "sync?timeout=0&since="+since, nil, nil) })
		}
	}
	m.report(b, 0)
}

// answerSync answers syncs with this token from this position, and leaves the others to the
// homeserver.
func answerSync(up *upstream, behind http.Handler, token, since string, answer http.HandlerFunc) {
	up.on(http.MethodGet, "/_matrix/client/v3/sync", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+token && r.URL.Query().Get("since") == since {
			answer(w, r)
			return
		}
		behind.ServeHTTP(w, r)
	})
}

func scaleShare(b *testing.B, people, loops int) {
	b.Helper()
	r := newRoomOf(b, people)
	r.send(r.writer()) // the account knows the crowd from now on
	var m meter
	var peak int64
	for b.Loop() {
		for range loops {
			b.StopTimer()
			d := r.writer()
			b.StartTimer()
			peak = max(peak, peakOf(func() { m.measure(func() { r.send(d) }) }))
		}
	}
	m.report(b, peak)
}

func scaleRooms(b *testing.B, rooms, loops int) {
	b.Helper()
	var m meter
	var peak int64
	for b.Loop() {
		for range loops {
			b.StopTimer()
			s := newFirstSync(b, rooms)
			b.StartTimer()
			peak = max(peak, peakOf(func() { m.measure(s.run) }))
		}
	}
	m.report(b, peak)
}

// firstSync is an account whose client syncs for the first time.
type firstSync struct {
	tb   testing.TB
	cli  *client
	size int64
}

// roomSize is about what a room takes in the answer.
const roomSize = 75_000

// newFirstSync makes an account in so many rooms, every second of which is encrypted.
func newFirstSync(tb testing.TB, rooms int) *firstSync {
	tb.Helper()
	hs := liar.New(tb)
	up := newUpstream(tb, hs)
	stack := newStack(tb, up)
	who := hs.Login("collector", "DEVICE")
	stack.device(who)
	s := &firstSync{tb: tb, cli: newClient(tb, stack.url, who.Token), size: int64(rooms) * roomSize}
	members, said := roomText(who.UserID)
	answerSync(up, hs, who.Token, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = fmt.Fprint(w, `{"next_batch":"after","rooms":{"join":{`)
		for i := range rooms {
			encryption, comma := "", ","
			if i%2 == 0 {
				encryption = `{"type":"m.room.encryption","state_key":"","sender":"@a:liar.test","event_id":"$e","origin_server_ts":1700000000000,"content":{"algorithm":"m.megolm.v1.aes-sha2"}},`
			}
			if i == 0 {
				comma = ""
			}
			_, _ = fmt.Fprintf(w, `%s"!room%d:liar.test":{"state":{"events":[%s%s]},"timeline":{"events":[%s]}}`, comma, i, encryption, members, said)
		}
		_, _ = fmt.Fprint(w, `}}}`)
	})
	return s
}

// roomText returns the members of a room and what was said there.
func roomText(own string) (members, said string) {
	var state, timeline strings.Builder
	for i := range 100 {
		user := fmt.Sprintf("@user%d:liar.test", i)
		if i == 0 {
			user = own
		}
		if i > 0 {
			state.WriteByte(',')
		}
		fmt.Fprintf(&state, `{"type":"m.room.member","state_key":%q,"sender":%q,"event_id":"$%043d","origin_server_ts":1700000000000,"content":{"membership":"join","displayname":"User","avatar_url":"mxc://liar.test/abcdefghijklmnopqrstuvwx"},"unsigned":{"age":86400000}}`, user, user, i)
	}
	for timeline.Len() < roomSize-state.Len()-500 {
		if timeline.Len() > 0 {
			timeline.WriteByte(',')
		}
		fmt.Fprintf(&timeline, `{"type":"org.example.note","sender":%q,"event_id":"$%043d","origin_server_ts":1700000000000,"content":{"body":"%s"}}`, own, timeline.Len(), strings.Repeat("x", 400))
	}
	return state.String(), timeline.String()
}

func (s *firstSync) run() {
	s.tb.Helper()
	if n := s.cli.do(http.MethodGet, "sync?timeout=0", nil, nil); n < s.size*9/10 {
		s.tb.Fatalf("the answer has %d bytes of about %d", n, s.size)
	}
}

func scaleAccounts(b *testing.B, accounts int) {
	b.Helper()
	var m meter
	for b.Loop() {
		b.StopTimer()
		t := newTown(b)
		db := openStore(b, b.TempDir()+"/e2ee.db")
		t.addDevices(db, accounts)
		o := engineOptions(b, t.url, db)
		o.Awake = 1
		o.Round = time.Hour // one is what is measured
		eng, err := e2ee.New(o)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		m.measure(func() {
			if err := eng.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			awaitFor(b, 10*time.Minute, "not every device has synced", func() bool { return t.seen() == accounts })
		})
		b.StopTimer()
		if err := eng.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	m.report(b, 0)
}

// peakOf returns by how much the heap that is in use grows at most while f runs, in bytes.
func peakOf(f func()) int64 {
	memory()
	before := liveHeap()
	var peak atomic.Int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		every := time.NewTicker(time.Millisecond)
		defer every.Stop()
		for {
			select {
			case <-stop:
				return
			case <-every.C:
				peak.Store(max(peak.Load(), liveHeap()-before))
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return peak.Load()
}

// liveHeap returns the size of what is on the heap, garbage included.
func liveHeap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// An account in 600 rooms syncs for the first time, which takes 45 MB, and a key is given to 600
// devices: what that takes of memory does not grow with the first, and little with the second.
func TestLargeAccountsTakeBoundedMemory(t *testing.T) { //nolint:paralleltest // it looks at the heap
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	first := newFirstSync(t, 600)
	if grown := peakOf(first.run); grown > 32e6 {
		t.Errorf("an answer of %d MB took %d MB", first.size/1e6, grown/1e6)
	}
	r := newRoomOf(t, 250)
	r.send(r.writer())
	d := r.writer()
	if grown := peakOf(func() { r.send(d) }); grown > 40e6 {
		t.Errorf("a key for %d devices took %d MB", len(r.devices), grown/1e6)
	}
}
