package main

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// BenchmarkNativeSync is a sync of 100 kB of a device with keys of its own, through the whole
// stack. The reference is an answer of the same size from an endpoint that no interceptor
// looks at, through the same stack.
func BenchmarkNativeSync(b *testing.B) {
	hs := liar.New(b)
	up := newUpstream(b, hs)
	s := newStack(b, up)
	who := newSender(b, hs, "native")
	device, err := s.eng.Device(context.Background(), id.UserID(who.user), id.DeviceID(who.device), secret.NewString(who.cli.token))
	if err != nil || device.Mode() != e2ee.ModeForeign {
		b.Fatalf("the device is %v, %v", device.Mode(), err)
	}
	body := append(append([]byte(`{"next_batch":"s2","filler":"`), bytes.Repeat([]byte("x"), 100_000)...), `"}`...)
	up.on(http.MethodGet, "/_matrix/client/v3/sync", text(body))
	up.on(http.MethodGet, "/_matrix/client/v3/joined_rooms", text(body))
	cli := newClient(b, s.url, who.cli.token)
	var passed, synced meter
	for b.Loop() { // in turns, since a machine's speed changes
		for _, one := range []struct {
			*meter
			path string
		}{{&passed, "joined_rooms"}, {&synced, "sync?since=s1&timeout=0"}} {
			one.measure(func() {
				if n := cli.do(http.MethodGet, one.path, nil, nil); n != int64(len(body)) {
					b.Fatalf("%d bytes", n)
				}
			})
		}
	}
	b.ReportMetric(passed.p50(), "passed-p50-µs")
	b.ReportMetric(synced.p50(), "sync-p50-µs")
	plain(b)
}
