package interceptors_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// quickDevice opens an event by cutting the clear text out of the ciphertext, which
// costs next to nothing beside the rewrite.
type quickDevice struct{ syncDevice }

var (
	cutFrom = []byte(`"ciphertext":{"type":"m.room.message","content":`)
	cutTo   = []byte(`}},"event_id"`)
	clear   = []byte(`{"type":"m.room.message","decrypted":true,"unsigned":{"dev.e2ee-proxy.trust":{"decrypted":true,"color":"none"}},"content":`)
)

func (d *quickDevice) KnownEncrypted(id.RoomID) bool { return false }

func (d *quickDevice) Open(_ context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error) {
	out := make([]e2ee.Opened, len(in))
	for i := range in {
		from, to := bytes.Index(in[i].Event, cutFrom), bytes.Index(in[i].Event, cutTo)
		event := make([]byte, 0, len(in[i].Event))
		event = append(append(event, clear...), in[i].Event[from+len(cutFrom):to]...)
		out[i] = e2ee.Opened{Event: append(append(event, `},`...), in[i].Event[to+3:]...), Type: "m.room.message", Decrypted: true}
	}
	return out, nil
}

type quickDevices struct {
	interceptors.Devices
	dev *quickDevice
}

func (d quickDevices) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	return d.dev, nil
}

// discard is a client that takes everything, and looks at something now and then.
type discard struct {
	header http.Header
	n      int64
	look   func()
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(int)     {}

func (d *discard) Write(p []byte) (int, error) {
	before := d.n
	if d.n += int64(len(p)); d.look != nil && before>>20 != d.n>>20 {
		d.look()
	}
	return len(p), nil
}

func (w *syncWorld) quick(ctx context.Context, query string) (int64, error) {
	return w.quickAnd(ctx, query, nil)
}

// quickAnd looks for each MiB that is answered.
func (w *syncWorld) quickAnd(ctx context.Context, query string, look func()) (int64, error) {
	out := &discard{header: http.Header{}, look: look}
	x := &interceptors.Exchange{
		Writer:   out,
		Identity: interceptors.Identity{UserID: "@me:example.org"},
		Upstream: w.up, Devices: quickDevices{dev: &quickDevice{syncDevice{mode: e2ee.ModeProxied}}},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/_matrix/client/v3/sync?"+query, http.NoBody)
	if err != nil {
		return 0, err
	}
	x.Request = req
	err = w.handler(x)
	return out.n, err
}

// BenchmarkSync rewrites a sync response of 10 MB, beside the ways of the field in the
// same run: jsontext's strict token stream over the same body, and a struct round trip.
func BenchmarkSync(b *testing.B) {
	for _, encrypted := range []int{0, 5000} {
		body := syncBody(10<<20, encrypted)
		b.Run(fmt.Sprintf("encrypted=%d", encrypted), func(b *testing.B) {
			w := newSyncWorld(b, "", interceptors.SyncOptions{})
			w.up.body = func() io.Reader { return bytes.NewReader(body) }
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			defer reportCPU(b, len(body))()
			for b.Loop() {
				w.up.syncs = nil
				if n, err := w.quick(b.Context(), ""); err != nil || n < int64(len(body))/2 {
					b.Fatal(n, err)
				}
			}
		})
	}
	b.Run("heap", func(b *testing.B) {
		var plain, large int64
		for b.Loop() {
			plain, large = max(plain, syncHeap(b, 10<<20, 0)), max(large, syncHeap(b, 100<<20, 500))
		}
		b.ReportMetric(float64(plain), "peak-B")
		b.ReportMetric(float64(large), "large-peak-B")
	})
	body := syncBody(10<<20, 0)
	b.Run("reference=jsontext", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		defer reportCPU(b, len(body))()
		for b.Loop() {
			dec := jsontext.NewDecoder(bytes.NewReader(body))
			enc := jsontext.NewEncoder(io.Discard)
			for {
				tok, err := dec.ReadToken()
				if errors.Is(err, io.EOF) {
					break
				}
				if err == nil {
					err = enc.WriteToken(tok)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("reference=structs", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		defer reportCPU(b, len(body))()
		for b.Loop() {
			var v map[string]any
			if err := json.NewDecoder(bytes.NewReader(body)).Decode(&v); err != nil {
				b.Fatal(err)
			}
			if err := json.NewEncoder(io.Discard).Encode(v); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// reportCPU measures the cost per core: bytes for each second of processor time.
func reportCPU(b *testing.B, size int) func() {
	began := cpuTime()
	return func() {
		if used := cpuTime() - began; used > 0 {
			b.ReportMetric(float64(size)*float64(b.N)/1e6/used.Seconds(), "MB/cpu-s")
		}
	}
}

// A 10 MB sync streams through with a heap that does not grow with it (limit: 4 MB whatever
// the body).
func TestSyncHeap(t *testing.T) {
	for _, size := range []int{10 << 20, 100 << 20} {
		for _, encrypted := range []int{0, 500} {
			if grown := syncHeap(t, size, encrypted); grown > 4<<20 {
				t.Errorf("%d MiB with %d encrypted events in each: the heap grew by %d bytes", size>>20, encrypted, grown)
			}
		}
	}
}

// syncHeap rewrites a response of a size, with so many encrypted events in each MiB, and
// tells by how much the heap grew at most.
func syncHeap(tb testing.TB, size, encrypted int) int64 {
	tb.Helper()
	w := newSyncWorld(tb, "", interceptors.SyncOptions{})
	return syncHeapOf(tb, w, size, encrypted, func(look func()) (int64, error) { return w.quickAnd(tb.Context(), "", look) })
}

// syncHeapOf is syncHeap with a device of one's own.
func syncHeapOf(tb testing.TB, w *syncWorld, size, encrypted int, run func(look func()) (int64, error)) int64 {
	tb.Helper()
	var peak atomic.Uint64
	before := heapNow()
	chunk := syncBody(1<<20, encrypted)
	from, to := bytes.Index(chunk, []byte(`"!room0`)), len(chunk)-3
	w.up.body = func() io.Reader {
		return &repeatedRooms{head: chunk[:from], rooms: chunk[from:to], tail: chunk[to:], times: size >> 20, peak: &peak}
	}
	n, err := run(func() { peak.Store(max(peak.Load(), heapNow())) })
	if err != nil || n < int64(size)*3/4 {
		tb.Fatal(n, err)
	}
	return int64(max(peak.Load(), heapNow())) - int64(before) - int64(len(chunk))
}

func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// repeatedRooms is a body in which the same rooms come many times; it notes the heap on the way.
type repeatedRooms struct {
	head, rooms, tail []byte
	times             int
	now               []byte
	began, comma      bool
	peak              *atomic.Uint64
}

func (r *repeatedRooms) Read(p []byte) (int, error) {
	if len(r.now) == 0 {
		switch {
		case !r.began:
			r.began, r.now = true, r.head
		case r.times > 0 && r.comma:
			r.comma, r.now = false, []byte{','}
		case r.times > 0:
			r.times--
			r.comma, r.now = true, r.rooms
			r.peak.Store(max(r.peak.Load(), heapNow()))
		case r.tail != nil:
			r.now, r.tail = r.tail, nil
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, r.now)
	r.now = r.now[n:]
	return n, nil
}
