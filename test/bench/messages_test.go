package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// BenchmarkMessages is a page of 100 encrypted events of GET /messages whose room key is in
// memory, the newest first, from the client's request to the last byte of the answer. The
// references are the same page from the homeserver itself, and goolm, which decrypts the events
// in the order in which they were sent and does nothing else, on as many cores.
func BenchmarkMessages(b *testing.B) {
	const events = 100
	page := func(talk *conversation) http.HandlerFunc {
		var body bytes.Buffer
		body.WriteString(`{"start":"t2","end":"t1","chunk":[`)
		for i := events; i > 0; i-- {
			if i < events {
				body.WriteByte(',')
			}
			body.Write(talk.events[i].Event)
		}
		body.WriteString(`]}`)
		return text(body.Bytes())
	}
	path := fmt.Sprintf("rooms/%s/messages?dir=b&limit=%d", url.QueryEscape(benchRoom), events)
	measure := func(b *testing.B, decrypted int, cli *client) {
		var m meter
		var all bytes.Buffer
		for b.Loop() {
			all.Reset()
			m.measure(func() { cli.do(http.MethodGet, path, nil, &all) })
			if n := bytes.Count(all.Bytes(), []byte(`"decrypted":true}`)); n != decrypted {
				b.Fatalf("%d events were decrypted: %.300s", n, all.Bytes())
			}
		}
		b.ReportMetric(m.p50()/1e3, "p50-ms")
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	}
	r, up := newReaders(b, events, nil)
	up.on(http.MethodGet, "/_matrix/client/v3/rooms/"+url.QueryEscape(benchRoom)+"/messages", page(r.talk))
	_, who := r.next()
	b.Run("reference=goolm-2-cores", func(b *testing.B) {
		var m meter
		for b.Loop() {
			m.measure(func() { r.talk.decryptReferenceOnTwo(b, events) })
		}
		b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
		plain(b)
	})
	b.Run("reference=homeserver", func(b *testing.B) { measure(b, 0, newClient(b, up.url.String(), who.Token)) })
	b.Run("e2ee-proxy", func(b *testing.B) { measure(b, events, newClient(b, r.url, who.Token)) })
}
