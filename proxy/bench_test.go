package proxy

import (
	"bufio"
	"cmp"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/interceptors"
)

// These benchmarks print the proxy beside the reference of the budget: a tuned
// httputil.ReverseProxy, on the same upstream, in the same run.

// quietUpstream answers with a fixed body and costs little itself.
func quietUpstream(b *testing.B) *url.URL {
	answer := []byte(`{"joined_rooms":["` + strings.Repeat("x", 512) + `"]}`)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(answer)
	}))
	b.Cleanup(upstream.Close)
	base, err := url.Parse(upstream.URL)
	if err != nil {
		b.Fatal(err)
	}
	return base
}

// tunedReverseProxy returns the reference.
func tunedReverseProxy(b *testing.B, base *url.URL) http.Handler {
	transport, err := NewTransport("", time.Second, 0, time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(base); r.SetXForwarded() },
		Transport:  transport,
		BufferPool: &bufferPool{},
		ErrorLog:   log.New(io.Discard, "", 0),
	}
}

func benchProxy(b *testing.B, base *url.URL) *Proxy {
	handlers := requiredHandlers()
	handlers[interceptors.Send] = relayed
	p, err := New(Options{Homeserver: base, Handlers: handlers, Devices: noDevices{}, Hash: testHash, Log: zerolog.New(io.Discard)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p
}

const benchGet = "GET /_matrix/client/v3/rooms/%21room%3Ahs.example/joined_members HTTP/1.1\r\nHost: proxy.test\r\n" +
	"Authorization: Bearer syt_YWxpY2U_abcdefghijklmnop_0abcde\r\nUser-Agent: bench\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n\r\n"

// loop sends requests to a handler of its own listener.
func loop(b *testing.B, h http.Handler, request string) { loopOn(b, listen(b, h), request) }

func listen(b *testing.B, h http.Handler) (address string) {
	front := httptest.NewServer(h)
	b.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

// asker is a client that asks the same again and again, on one connection.
type asker struct {
	b    *testing.B
	conn net.Conn
	in   *bufio.Reader
	text string
	took []time.Duration
}

func newAsker(b *testing.B, address, request string) *asker {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return &asker{b: b, conn: conn, in: bufio.NewReader(conn), text: request, took: make([]time.Duration, 0, 1<<16)}
}

func (a *asker) ask() {
	began := time.Now()
	if _, err := io.WriteString(a.conn, a.text); err != nil {
		a.b.Fatal(err)
	}
	resp, err := http.ReadResponse(a.in, nil)
	if err != nil {
		a.b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		a.b.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	a.took = append(a.took, time.Since(began))
}

// loopOn sends requests on one kept connection and reads the answers. It prints the median
// and what the processors spent on a request here, the client and the homeserver included.
func loopOn(b *testing.B, address, request string) {
	a := newAsker(b, address, request)
	b.ReportAllocs()
	used := cpuTime()
	for b.Loop() {
		a.ask()
	}
	b.ReportMetric(float64((cpuTime()-used).Nanoseconds())/1e3/float64(b.N), "cpu-µs/request")
	b.ReportMetric(float64(median(a.took).Nanoseconds())/1e3, "p50-µs")
}

func median[T cmp.Ordered](of []T) T {
	slices.Sort(of)
	return of[len(of)/2]
}

const (
	// inTurn is how many requests go one way before the next way has its turn, so that all of them meet
	// the same machine: a virtual one changes its speed by a third from one second to the next. turns is
	// how many each of them has.
	inTurn = 500
	turns  = 30
)

// BenchmarkPassThrough is what the processors spend on a request that goes straight through, beside one
// through the reference, and one that has nothing between client and homeserver: the median of their
// turns, all of which are taken before the first of them is told.
func BenchmarkPassThrough(b *testing.B) {
	ways := []struct {
		name string
		a    *asker
		used []float64 // by a request of each turn
	}{
		{name: "nothing-between", a: newAsker(b, quietUpstream(b).Host, benchGet)},
		{name: "reference=tuned-ReverseProxy", a: newAsker(b, listen(b, tunedReverseProxy(b, quietUpstream(b))), benchGet)},
		{name: "e2ee-proxy", a: newAsker(b, listen(b, benchProxy(b, quietUpstream(b))), benchGet)},
	}
	for range turns {
		for i := range ways {
			used := cpuTime()
			for range inTurn {
				ways[i].a.ask()
			}
			ways[i].used = append(ways[i].used, float64((cpuTime()-used).Nanoseconds())/1e3/inTurn)
		}
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				way.a.ask()
			}
			b.ReportMetric(median(way.used), "cpu-µs/request")
		})
	}
}

// instant is an upstream without a network, to see what the handler alone costs.
type instant struct{}

func (instant) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader("{}")), ContentLength: 2, Request: r,
	}, nil
}

type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// SetWriteDeadline serves http.ResponseController.
func (n nowhere) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkPassThroughHandler leaves the sockets out: what is left is what is added.
func BenchmarkPassThroughHandler(b *testing.B) {
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(benchGet)))
	if err != nil {
		b.Fatal(err)
	}
	request.RemoteAddr = "127.0.0.1:1234"
	run := func(b *testing.B, h http.Handler) {
		b.ReportAllocs()
		for b.Loop() {
			r := *request
			r.Header = request.Header.Clone()
			h.ServeHTTP(nowhere{make(http.Header)}, &r)
		}
	}
	base := &url.URL{Scheme: "http", Host: "hs.test"}
	b.Run("reference=tuned-ReverseProxy", func(b *testing.B) {
		h, ok := tunedReverseProxy(b, base).(*httputil.ReverseProxy)
		if !ok {
			b.Fatal("not a ReverseProxy")
		}
		h.Transport = instant{}
		run(b, h)
	})
	b.Run("e2ee-proxy", func(b *testing.B) {
		p := benchProxy(b, base)
		for l := range p.trips {
			p.trips[l] = instant{}
		}
		run(b, p)
	})
}

func BenchmarkJudge(b *testing.B) {
	p := benchProxy(b, &url.URL{Scheme: "http", Host: "hs.test"})
	r := httptest.NewRequest("PUT", "/_matrix/client/v3/rooms/%21room%3Ahs.example/send/m.room.message/m1234567890.1", nil)
	r.Header.Set("Authorization", "Bearer syt_YWxpY2U_abcdefghijklmnop_0abcde")
	b.ReportAllocs()
	for b.Loop() {
		q := request{r: r}
		if err := p.resolveEndpoint(&q); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParkedPoll prints what one waiting long poll costs in memory, connections
// on both sides included but for the homeserver's own and the client's.
func BenchmarkParkedPoll(b *testing.B) {
	const target = "/_matrix/client/v3/events?timeout=30000" // straight through: a sync adds what its handler needs
	b.Run("reference=tuned-ReverseProxy", func(b *testing.B) {
		park(b, target, func(base *url.URL) http.Handler { return tunedReverseProxy(b, base) })
	})
	b.Run("e2ee-proxy", func(b *testing.B) {
		park(b, target, func(base *url.URL) http.Handler { return benchProxy(b, base) })
	})
}

func park(b *testing.B, target string, front func(*url.URL) http.Handler) {
	const polls = 1000
	for b.Loop() {
		// The other sides hold bare connections, which cost next to nothing here.
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		arrived := make(chan net.Conn, polls)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				arrived <- conn
			}
		}()
		server := httptest.NewServer(front(&url.URL{Scheme: "http", Host: ln.Addr().String()}))
		before := memory()
		conns := make([]net.Conn, 0, 2*polls)
		for range polls {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.WriteString(conn, "GET "+target+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer syt_YWxpY2U_abcdefghijklmnop\r\nUser-Agent: bench\r\n\r\n")
			up := <-arrived
			var one [1]byte
			if _, err := up.Read(one[:]); err != nil { // the request is on its way
				b.Fatal(err)
			}
			conns = append(conns, conn, up)
		}
		b.ReportMetric(float64(memory()-before)/polls, "B/poll")
		for _, conn := range conns {
			_ = conn.Close()
		}
		_ = ln.Close()
		server.Close()
	}
}

// memory returns what the process uses after a collection: heap and stacks.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
