package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/liar"
)

// BenchmarkSyncCommit is a small sync of a client: one new membership in an encrypted room,
// 20 messages and the count of one-time keys, from the request to the last byte of the answer,
// with what it says stored before it is answered.
func BenchmarkSyncCommit(b *testing.B) {
	hs := liar.New(b)
	up := newUpstream(b, hs)
	s := newStack(b, up)
	who := hs.Login("alice", "ALICE")
	friend := newSender(b, hs, "friend").user
	room := hs.CreateRoom(true, who.UserID, friend)
	s.device(who)
	cli := newClient(b, s.url, who.Token)
	var first bytes.Buffer
	cli.do(http.MethodGet, "sync?timeout=0", nil, &first)
	var timeline strings.Builder
	for i := range 20 {
		fmt.Fprintf(&timeline, `,{"type":"org.example.note","event_id":"$%043d","sender":%q,"origin_server_ts":1700000000000,"content":{"body":"%s"}}`, i, friend, strings.Repeat("x", 200))
	}
	n := 0
	up.on(http.MethodGet, "/_matrix/client/v3/sync", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer "+who.Token || !strings.HasPrefix(req.URL.Query().Get("since"), "bench") {
			hs.ServeHTTP(w, req)
			return
		}
		text(fmt.Appendf(nil, `{"next_batch":"bench%d","device_one_time_keys_count":{"signed_curve25519":50},"device_unused_fallback_key_types":["signed_curve25519"],"rooms":{"join":{%q:{"timeline":{"events":[{"type":"m.room.member","state_key":"@new%d:liar.test","event_id":"$member%d","sender":"@new%d:liar.test","origin_server_ts":1700000000000,"content":{"membership":"leave"}}%s]}}}}}`,
			n, room, n, n, n, timeline.String()))(w, req)
	})
	var m meter
	var out bytes.Buffer
	b.ResetTimer()
	for b.Loop() {
		n++
		out.Reset()
		m.measure(func() { cli.do(http.MethodGet, fmt.Sprintf("sync?timeout=0&since=bench%d", n-1), nil, &out) })
	}
	if !bytes.Contains(out.Bytes(), []byte(`"next_batch":"bench`)) {
		b.Fatalf("%.200s", out.Bytes())
	}
	b.ReportMetric(m.p50(), "p50-µs")
	b.ReportMetric(m.perUnit(1), "cpu-µs")
	plain(b)
}
