package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/proxy"
	"e2ee-proxy/store"
)

const memoryDevices = 1000

// memory returns what the process uses after a collection: heap and stacks.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// sleepingEngine returns an engine whose devices have all been visited and sleep, all but one.
func sleepingEngine(b *testing.B, t *town, db *store.DB) *e2ee.Engine {
	b.Helper()
	o := engineOptions(b, t.url, db)
	o.Awake = 1
	eng := startEngine(b, o)
	await(b, "not every device has synced", func() bool { return t.seen() == memoryDevices && t.waiting() == 1 })
	return eng
}

// BenchmarkIdleDevice is what a device costs in memory that was loaded and that nobody uses.
func BenchmarkIdleDevice(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		t := newTown(b)
		db := openStore(b, filepath.Join(b.TempDir(), "e2ee.db"))
		t.addDevices(db, memoryDevices)
		b.StartTimer()
		before := memory()
		eng := sleepingEngine(b, t, db)
		b.ReportMetric(float64(memory()-before)/memoryDevices, "B/device")
		runtime.KeepAlive(eng)
	}
	plain(b)
}

// BenchmarkUsedDevice is what a device costs in memory that its client has just used, and an
// hour later, when it has not used it since.
func BenchmarkUsedDevice(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		t := newTown(b)
		db := openStore(b, filepath.Join(b.TempDir(), "e2ee.db"))
		t.addDevices(db, memoryDevices)
		o := engineOptions(b, t.url, db)
		var ahead atomic.Int64
		o.Awake, o.Round = 1, 2*time.Second
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		b.StartTimer()
		before := memory()
		eng := startEngine(b, o)
		for i := range memoryDevices {
			use(b, eng, i)
		}
		await(b, "not every device has synced", func() bool { return t.seen() == memoryDevices })
		used := float64(memory() - before)
		ahead.Store(int64(time.Hour))
		after, looks := used, 0 // the least that is seen: rounds load devices for moments
		await(b, "memory cannot be looked at", func() bool {
			after = min(after, max(float64(memory())-float64(before), 0))
			looks++
			return looks == 150
		})
		b.ReportMetric(used/memoryDevices, "B/used-device")
		b.ReportMetric(after/memoryDevices, "B/device-after-an-hour")
		runtime.KeepAlive(eng)
	}
	plain(b)
}

// use is a request of a client that sends into rooms: what the proxy asks of its device first.
func use(b *testing.B, eng *e2ee.Engine, i int) {
	b.Helper()
	d, err := eng.Device(b.Context(), id.UserID(townUser(i)), "DEVICE", secret.NewString("town-"+strconv.Itoa(i)))
	if err != nil {
		b.Fatal(err)
	}
	for room := range 10 {
		if _, err := d.RoomEncryption(b.Context(), id.RoomID("!room"+strconv.Itoa(room)+":town.test")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParkedSync is what a client's waiting sync costs in memory beyond its device, with the connections
// on both sides but without the client's and the homeserver's own, and what it costs a
// tuned httputil.ReverseProxy.
func BenchmarkParkedSync(b *testing.B) {
	b.Run("reference=tuned-ReverseProxy", func(b *testing.B) {
		park(b, func(t *town) string {
			transport, err := proxy.NewTransport("", time.Second, 0, time.Minute)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(transport.CloseIdleConnections)
			front := httptest.NewServer(&httputil.ReverseProxy{
				Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(t.url); r.SetXForwarded() },
				Transport:  transport,
				BufferPool: &buffers{},
				ErrorLog:   log.New(io.Discard, "", 0),
			})
			b.Cleanup(front.Close)
			return front.URL
		})
	})
	b.Run("e2ee-proxy", func(b *testing.B) {
		park(b, func(t *town) string {
			db := openStore(b, filepath.Join(b.TempDir(), "e2ee.db"))
			t.addDevices(db, memoryDevices)
			return serveProxy(b, t.url, db, sleepingEngine(b, t, db))
		})
	})
}

// buffers is a pool of copy buffers, as a tuned ReverseProxy has one.
type buffers struct{ pool sync.Pool }

func (p *buffers) Get() []byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *buffers) Put(b []byte) { p.pool.Put(&b) }

func park(b *testing.B, front func(*town) string) {
	for b.Loop() {
		b.StopTimer()
		t := newTown(b)
		address := strings.TrimPrefix(front(t), "http://")
		for i := range memoryDevices { // the devices are in use before
			newClient(b, "http://"+address, "town-"+strconv.Itoa(i)).do(http.MethodGet, "sync?since=s1&timeout=0", nil, nil)
		}
		b.StartTimer()
		before, waiting := memory(), t.waiting()
		conns := make([]net.Conn, 0, memoryDevices)
		for i := range memoryDevices {
			conns = append(conns, ask(b, address, i, "/_matrix/client/v3/sync?since=s1&timeout=30000"))
		}
		await(b, "not every sync waits", func() bool { return t.waiting() >= waiting+memoryDevices })
		b.ReportMetric(float64(memory()-before)/memoryDevices, "B/poll")
		for _, conn := range conns {
			_ = conn.Close()
		}
		t.release()
	}
	plain(b)
}

// ask sends a request on a connection of its own and reads nothing.
func ask(b *testing.B, address string, user int, target string) net.Conn {
	b.Helper()
	conn, err := net.Dial("tcp", address)
	if err == nil {
		_, err = io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer town-"+strconv.Itoa(user)+"\r\nUser-Agent: bench\r\n\r\n")
	}
	if err != nil {
		b.Fatal(err)
	}
	return conn
}
