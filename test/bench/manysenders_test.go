package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

const (
	manySenders = 200
	manyInTurn  = 4000 // messages between those writes that are the reference
)

var encryption = obj{"type": "m.room.encryption", "state_key": "", "sender": "@somebody:town.test", "content": obj{"algorithm": megolmAlgorithm}}

// BenchmarkManySenders has 200 clients of as many users send into encrypted rooms, each its next
// message when its last was answered, and counts the commits of the database that their ratchets
// needed: through the whole stack, which shares the processors with the clients and the homeserver,
// and the engine alone. In turn with it writes are synced to the same disk, one after the other: as
// many messages could be sent in a second if none shared a commit with another.
func BenchmarkManySenders(b *testing.B) {
	b.Run("whole-stack", func(b *testing.B) {
		benchmarkManySenders(b, func(s *sending) { s.send(true) })
	})
	b.Run("engine", func(b *testing.B) {
		benchmarkManySenders(b, func(s *sending) {
			s.n++
			out := e2ee.Outgoing{RoomID: s.room, Type: "m.room.message", TxnID: fmt.Sprint("m", s.n), Content: []byte(`{"msgtype":"m.text","body":"hello"}`)}
			if _, err := s.device.Encrypt(context.Background(), out); err != nil {
				b.Error(err)
			}
		})
	})
}

func benchmarkManySenders(b *testing.B, send func(*sending)) {
	b.Helper()
	path := filepath.Join(b.TempDir(), "e2ee.db")
	senders := newManySenders(b, path)
	disk := newDisk(b)
	var sent, synced, used time.Duration
	var syncs, commits int64
	var each meter
	b.ResetTimer()
	for b.Loop() {
		before, cpu, began := ratchetCommits(b, path), cpuTime(), time.Now()
		each.took = append(each.took, sendAtOnce(senders, manyInTurn, send)...)
		sent, used, commits = sent+time.Since(began), used+cpuTime()-cpu, commits+ratchetCommits(b, path)-before
		began = time.Now()
		for range 20 {
			disk.write()
			syncs++
		}
		synced += time.Since(began)
	}
	messages := float64(len(each.took))
	b.ReportMetric(messages/sent.Seconds(), "messages/s")
	b.ReportMetric(float64(commits)/sent.Seconds(), "commits/s")
	b.ReportMetric(float64(syncs)/synced.Seconds(), "fsyncs/s")
	b.ReportMetric(each.p50()/1e3, "p50-ms")
	b.ReportMetric(float64(used.Microseconds())/messages, "cpu-µs/message")
	plain(b)
}

// sendAtOnce has the clients send so many messages, and returns what each took.
func sendAtOnce(senders []*sending, messages int, send func(*sending)) []time.Duration {
	took := make([][]time.Duration, len(senders))
	var next atomic.Int64
	var all sync.WaitGroup
	for i, s := range senders {
		all.Go(func() {
			for next.Add(1) <= int64(messages) {
				began := time.Now()
				send(s)
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	all.Wait()
	return slices.Concat(took...)
}

// newManySenders makes the clients, each with an encrypted room of its own. Their devices are those
// of a town, which are in the database already.
func newManySenders(b *testing.B, path string) []*sending {
	b.Helper()
	t := newTown(b)
	up := newUpstream(b, t)
	db := openStore(b, path)
	t.addDevices(db, manySenders)
	stack := newStackOn(b, up, path, db, nil)
	senders := make([]*sending, manySenders)
	for i := range senders {
		name := fmt.Sprintf("!home%d", i)
		room := "/_matrix/client/v3/rooms/" + url.PathEscape(name)
		up.on(http.MethodGet, room+"/state", text(marshal(b, []obj{member(townUser(i)), encryption})))
		up.on(http.MethodGet, room+"/state/m.room.encryption", text(marshal(b, encryption["content"])))
		up.on(http.MethodGet, room+"/state/m.room.encryption/", text(marshal(b, encryption["content"])))
		up.on(http.MethodGet, room+"/members", text(marshal(b, obj{"chunk": []obj{member(townUser(i))}})))
		up.below(http.MethodPut, room+"/send/m.room.encrypted/", text([]byte(`{"event_id":"$sent"}`)))
		below := strings.TrimPrefix(room, "/_matrix/client/v3/") + "/send/"
		s := &sending{cli: newClient(b, stack.url, "town-"+strconv.Itoa(i)), paths: map[bool]string{true: below}, room: id.RoomID(name)}
		s.send(true)
		var err error
		if s.device, err = stack.eng.Device(b.Context(), id.UserID(townUser(i)), "DEVICE", secret.NewString("town-"+strconv.Itoa(i))); err != nil {
			b.Fatal(err)
		}
		senders[i] = s
	}
	return senders
}

// ratchetCommits returns how many commits have moved a ratchet since the database was made: that is
// what the mark beside it counts.
func ratchetCommits(b *testing.B, path string) (n int64) {
	b.Helper()
	raw, err := os.ReadFile(path + "-mark")
	if err == nil {
		_, err = fmt.Sscanf(strings.Join(strings.Split(string(raw), "\n")[2:3], ""), "%d", &n)
	}
	if err != nil {
		b.Fatal(err)
	}
	return n
}
