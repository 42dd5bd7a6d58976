package interceptors

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// costly returns bodies that need the most memory for their size, each in its own way.
func costly(size int) map[string]string {
	list := func(before, after string, elem func(i int) string) string {
		var b strings.Builder
		b.WriteString(before)
		for i := 0; b.Len() < size-64 && i < MaxValues-8; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(elem(i))
		}
		return b.String() + after
	}
	const deep = 9000 // the decoder follows 10,000
	return map[string]string{
		"members":         list(`{`, `}`, func(i int) string { return fmt.Sprintf(`"%x":1`, i) }),
		"members below":   list(`{"a":{`, `}}`, func(i int) string { return fmt.Sprintf(`"%x":1`, i) }),
		"numbers":         list(`{"invite":[`, `]}`, func(int) string { return "1" }),
		"empty texts":     list(`{"invite":[`, `]}`, func(int) string { return `""` }),
		"nested objects":  strings.Repeat(`{"a":`, deep) + "1" + strings.Repeat("}", deep),
		"nested arrays":   `{"a":` + strings.Repeat(`[`, deep) + strings.Repeat("]", deep) + "}",
		"one long text":   `{"a":"` + strings.Repeat("a", size-64) + `"}`,
		"escapes":         `{"a":"` + strings.Repeat(`\u0041`, (size-64)/6) + `"}`,
		"one long name":   `{"` + strings.Repeat("a", size-64) + `":1}`,
		"nothing but gap": "{" + strings.Repeat(" ", size-64) + "}",
	}
}

// Attack vector: a body of small things takes dozens of times its size when it is decoded.
//
// Expected: it never takes more than is set aside for it, whatever it is made of.
func TestDecodingCost(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	for _, size := range []int{64 << 10, 320 << 10} {
		for name, body := range costly(size) {
			if len(body) > size {
				continue // has no smaller form
			}
			const at = 4
			live := peakOf(func() {
				var all sync.WaitGroup
				for range at {
					all.Go(func() {
						x := &Exchange{Request: httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))}
						raw, err := x.ReadObject()
						if err != nil {
							t.Errorf("%s: %v", name, err)
							return
						}
						parsed, err := exchange.ParseObject(raw)
						if err != nil {
							t.Errorf("%s: %v", name, err)
						}
						_, _ = parsed.Texts("invite"), parsed.Object("a")
					})
				}
				all.Wait()
			})
			// A quarter more, since the collector is not always done.
			if limit := at*DecodingCost(int64(len(body)))*5/4 + 1<<20; live > limit {
				t.Errorf("%s of %d bytes: %d bytes live at a time, and %d are set aside", name, len(body), live, limit)
			}
		}
	}
}

// peakOf returns how much the heap grows at most while f runs.
func peakOf(f func()) int64 {
	heap := func() int64 {
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	f()
	debug.FreeOSMemory()
	before := heap()
	var peak int64
	var stop atomic.Bool
	var watching sync.WaitGroup
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	watching.Go(func() {
		for !stop.Load() {
			<-tick.C
			peak = max(peak, heap())
		}
	})
	f()
	stop.Store(true)
	watching.Wait()
	return peak - before
}

// Attack vector: an event with more values than any event can have is taken apart.
//
// Expected: 413 before anything is made of it; the homeserver sees nothing. The largest
// number passes, and what stands in a text does not count.
func TestBodyWithTooManyValues(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, body string
		refused    bool
	}{
		{"as many as may be", `{"a":[` + strings.Repeat("1,", MaxValues-3) + `1]}`, false},
		{"one more", `{"a":[` + strings.Repeat("1,", MaxValues-2) + `1]}`, true},
		{"in a text", `{"body":"` + strings.Repeat(`,[{\\\",`, MaxValues) + `"}`, false},
		{"that is no JSON", strings.Repeat("[", MaxValues+1), true},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: test.body, maxBody: 1 << 20})
		if test.refused {
			wantError(t, err, http.StatusRequestEntityTooLarge, apierr.CodeTooLarge)
			w.wantNothingUpstream()
		} else if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
