package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

const (
	syncEvents = 5000
	syncSize   = 10 << 20
	benchRoom  = "!bench:liar.test"
	// openBatch is how many events the sync handler opens at a time.
	openBatch = 512
)

// conversation is a room key with messages under it, the first of which is a probe.
type conversation struct {
	key    []byte
	id     string
	cipher []string
	events []e2ee.Incoming
}

func newConversation(tb testing.TB, from string, n int) *conversation {
	tb.Helper()
	said := make([]string, n+1)
	for i := range said {
		said[i] = fmt.Sprintf("message %d: nothing of interest, but as long as what people write", i)
	}
	return newConversationOf(tb, from, said)
}

// newConversationOf returns a conversation of these messages, which have event IDs of their
// own.
func newConversationOf(tb testing.TB, from string, said []string) *conversation {
	tb.Helper()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		tb.Fatal(err)
	}
	c := &conversation{id: out.ID().String()}
	if c.key, err = out.SessionSharingMessage(); err != nil {
		tb.Fatal(err)
	}
	for i, text := range said {
		cipher, err := out.Encrypt(fmt.Appendf(nil,
			`{"type":"m.room.message","room_id":%q,"content":{"msgtype":"m.text","body":%q}}`, benchRoom, text))
		if err != nil {
			tb.Fatal(err)
		}
		c.cipher = append(c.cipher, string(cipher))
		c.events = append(c.events, e2ee.Incoming{RoomID: benchRoom, Redeliver: true, Event: fmt.Appendf(nil,
			`{"content":{"algorithm":%q,"ciphertext":%q,"session_id":%q},"event_id":"$%.10s%033d","origin_server_ts":%d,"sender":%q,"type":"m.room.encrypted","unsigned":{"age":1234}}`,
			megolmAlgorithm, cipher, c.id, c.id, i, 1700000000000+i, from)})
	}
	return c
}

// decryptReference is the reference: nothing but goolm, from one message to another.
func (c *conversation) decryptReference(tb testing.TB, from, to int) {
	in, err := session.NewMegolmInboundSession(c.key)
	if err != nil {
		tb.Error(err)
		return
	}
	for _, cipher := range c.cipher[from:to] {
		if _, _, err := in.Decrypt([]byte(cipher)); err != nil {
			tb.Error(err)
		}
	}
}

// decryptReferenceOnTwo is bare for all messages but the probe, on two cores.
func (c *conversation) decryptReferenceOnTwo(tb testing.TB, n int) {
	var both sync.WaitGroup
	both.Go(func() { c.decryptReference(tb, 1, n/2) })
	both.Go(func() { c.decryptReference(tb, n/2, n+1) })
	both.Wait()
}

// readers makes devices that have the room key and have opened one message with it.
type readers struct {
	*stack
	hs   *liar.Server
	from *sender
	talk *conversation
	made int
}

// newReaders makes readers of n messages. change may be nil.
func newReaders(b *testing.B, n int, change func(*e2ee.Options)) (*readers, *upstream) {
	hs := liar.New(b)
	up := newUpstream(b, hs)
	r := &readers{stack: newStackWith(b, up, change), hs: hs, from: newSender(b, hs, "sender")}
	r.talk = newConversation(b, r.from.user, n)
	return r, up
}

func (r *readers) next() (*e2ee.Device, liar.Session) {
	r.made++
	who := r.hs.Login(fmt.Sprintf("reader%d", r.made), "READER")
	d := r.device(who)
	r.from.sendRoomKey(who, benchRoom, r.talk.id, r.talk.key)
	knows(r.tb, d, r.talk.events[0])
	return d, who
}

// BenchmarkDecrypt is what the processors spend on one event that is new, from the bytes
// the homeserver sent to those the client gets: parsed, decrypted, its index compared with
// and added to those that were used, its sender judged, annotated and encoded, its words
// added to the search index. The room key is in memory. The reference decrypts, and nothing
// else, on as many cores.
func BenchmarkDecrypt(b *testing.B) {
	const events = 2048
	b.Run("reference=goolm", func(b *testing.B) {
		talk := newConversation(b, "@sender:liar.test", events)
		var m meter
		for b.Loop() {
			m.measure(func() { talk.decryptReferenceOnTwo(b, events) })
		}
		b.ReportMetric(m.perUnit(events), "cpu-µs/event")
		plain(b)
	})
	b.Run("e2ee-proxy", func(b *testing.B) {
		r, _ := newReaders(b, events, nil)
		var m meter
		for b.Loop() {
			r.openAll(b, &m, events)
		}
		b.ReportMetric(m.perUnit(events), "cpu-µs/event")
		plain(b)
	})
}

// BenchmarkSearchIndex is what the search index adds to that: the same with it and without, in turn,
// because what else the machine does changes more than that from one second to the next.
func BenchmarkSearchIndex(b *testing.B) {
	const events = 2048
	var with, without meter
	indexed, _ := newReaders(b, events, nil)
	plainly, _ := newReaders(b, events, func(o *e2ee.Options) { o.Search.Off = true })
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			indexed.openAll(b, &with, events)
			plainly.openAll(b, &without, events)
		} else {
			plainly.openAll(b, &without, events)
			indexed.openAll(b, &with, events)
		}
	}
	b.ReportMetric(with.perUnit(events), "cpu-µs/event-with")
	b.ReportMetric(without.perUnit(events), "cpu-µs/event-without")
	plain(b)
}

// openAll has a device that has opened none of the messages yet open so many of them.
func (r *readers) openAll(b *testing.B, m *meter, events int) {
	b.Helper()
	b.StopTimer()
	d, _ := r.next()
	b.StartTimer()
	m.measure(func() {
		for i := 1; i <= events; i += openBatch {
			opened, err := d.Open(b.Context(), r.talk.events[i:i+openBatch])
			if err != nil {
				b.Fatal(err)
			}
			for _, out := range opened {
				if !out.Decrypted {
					b.Fatalf("not decrypted: %s", out.Event)
				}
			}
		}
	})
}

// BenchmarkBigSync is a sync response of 10 MB with 5,000 encrypted events, from the
// client's request to the last byte of the answer. The reference decrypts the events on
// two cores, and nothing else.
func BenchmarkBigSync(b *testing.B) {
	b.Run("reference=goolm-2-cores", func(b *testing.B) {
		talk := newConversation(b, "@sender:liar.test", syncEvents)
		var m meter
		for b.Loop() {
			m.measure(func() { talk.decryptReferenceOnTwo(b, syncEvents) })
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
	b.Run("e2ee-proxy", func(b *testing.B) {
		r, up := newReaders(b, syncEvents, nil)
		body := bigSync(r.talk, syncSize)
		var m meter
		for b.Loop() {
			b.StopTimer()
			_, who := r.next()
			cli := newClient(b, r.url, who.Token)
			var first bytes.Buffer
			cli.do(http.MethodGet, "sync?timeout=0", nil, &first)
			since := nextBatch(b, first.Bytes())
			up.on(http.MethodGet, "/_matrix/client/v3/sync", func(w http.ResponseWriter, req *http.Request) {
				if req.Header.Get("Authorization") == "Bearer "+who.Token && req.URL.Query().Get("since") == since {
					text(body)(w, req)
					return
				}
				r.hs.ServeHTTP(w, req)
			})
			var all bytes.Buffer
			all.Grow(2 * syncSize)
			b.StartTimer()
			m.measure(func() { cli.do(http.MethodGet, "sync?timeout=0&since="+since, nil, &all) })
			if n := bytes.Count(all.Bytes(), []byte(`"decrypted":true}`)); n < syncEvents {
				b.Fatalf("%d events were decrypted", n)
			}
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
}

func nextBatch(tb testing.TB, sync []byte) string {
	tb.Helper()
	_, after, ok := bytes.Cut(sync, []byte(`"next_batch":"`))
	token, _, closed := bytes.Cut(after, []byte(`"`))
	if !ok || !closed {
		tb.Fatalf("no next_batch in %.200s", sync)
	}
	return string(token)
}

// bigSync returns a response with the conversation in one room and, up to its size,
// membership events in others.
func bigSync(talk *conversation, size int) []byte {
	var body bytes.Buffer
	body.WriteString(`{"next_batch":"after","rooms":{"join":{"` + benchRoom + `":{"timeline":{"events":[`)
	for i, ev := range talk.events[1:] {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(ev.Event)
	}
	body.WriteString(`]}}`)
	for room := 0; body.Len() < size; room++ {
		fmt.Fprintf(&body, `,"!room%d:liar.test":{"timeline":{"events":[]},"state":{"events":[`, room)
		for i := range 50 {
			if i > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `{"type":"m.room.member","state_key":"@user%d:liar.test","sender":"@user%d:liar.test","event_id":"$%043d","origin_server_ts":1700000000000,"content":{"membership":"join","displayname":"User %s","avatar_url":"mxc://liar.test/abcdefghijklmnopqrstuvwx"},"unsigned":{"age":86400000}}`,
				i, i, room*50+i, strings.Repeat("x", i%20))
		}
		body.WriteString(`]}}`)
	}
	body.WriteString(`}}}`)
	return body.Bytes()
}
