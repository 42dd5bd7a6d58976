package trustcache

import (
	"fmt"
	"runtime"
	"testing"

	"maunium.net/go/mautrix/id"
)

// BenchmarkClientAnswer judges and learns an answer about 5,000 users with 12,000 devices,
// every third unsigned: of which nothing is known, and again, which is what most answers are.
func BenchmarkClientAnswer(b *testing.B) {
	srv := newServer()
	users := make([]id.UserID, 5000)
	for i := range users {
		users[i] = id.UserID(fmt.Sprintf("@user%d:example.org", i))
		p := newPerson(users[i], "1")
		devices := []fields{p.signedDevice("A"), p.signedDevice("B")}
		if i%5 < 2 {
			devices = append(devices, p.device("C"))
		}
		srv.publish(p, devices...)
	}
	res, err := srv.reply(users)
	if err != nil {
		b.Fatal(err)
	}
	cache, err := NewCache(20000)
	if err != nil {
		b.Fatal(err)
	}
	for _, known := range []bool{false, true} {
		b.Run(fmt.Sprintf("known=%t", known), func(b *testing.B) {
			b.ReportAllocs()
			x := track(b, srv, newMemory(), func(o *Options) { o.Cache = cache })
			run := func() {
				q := x.BeginClientQuery(false)
				defer q.End()
				view, err := q.Answered(b.Context(), res, func(id.UserID) bool { return true }, ModeEnforce)
				if err != nil || len(view.Hidden) != 2000 {
					b.Fatalf("%d users with hidden devices, %v", len(view.Hidden), err)
				}
			}
			if known {
				run()
			}
			for b.Loop() {
				if !known {
					cache.users.Purge()
					x = track(b, srv, newMemory(), func(o *Options) { o.Cache = cache })
				}
				run()
			}
			b.StopTimer()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapInuse)/(1<<20), "heap-MiB")
		})
	}
}
