package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	runtimemetrics "runtime/metrics"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// proxied is an interceptors.Devices in which the proxy encrypts for every device. It
// records nothing.
type proxied struct{ interceptors.Devices }

func (proxied) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	return proxiedDevice{}, nil
}

type proxiedDevice struct{ interceptors.Device }

func (proxiedDevice) Mode() e2ee.Mode { return e2ee.ModeProxied }

func (proxiedDevice) NoteMembership(context.Context, id.RoomID, id.UserID, string) error { return nil }

// memoryRig has the real handlers in front of a homeserver that answers to createRoom
// only once it is released. arrived gets a word for each that has come there.
func memoryRig(t *testing.T, change func(*Options)) (g *rig, arrived chan string, release func()) {
	t.Helper()
	handlers, err := interceptors.Handlers(interceptors.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g = newRig(t, func(o *Options) {
		o.Handlers, o.Devices = handlers, proxied{}
		if change != nil {
			change(o)
		}
	})
	arrived, held := make(chan string, 64), make(chan struct{})
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			switch {
			case strings.Contains(r.RequestURI, "/account/whoami"):
				_, _ = fmt.Fprintf(w, `{"user_id":"@%s:hs","device_id":"D"}`, token)
			case strings.HasSuffix(r.RequestURI, "/createRoom"):
				arrived <- token
				if token == "alice" {
					<-held
				}
				_, _ = io.WriteString(w, `{"room_id":"!new:hs"}`)
			default:
				_, _ = io.WriteString(w, `{}`)
			}
		}
	})
	return g, arrived, release
}

// newRoom returns a body for createRoom of the given size, with about as many values as it
// may have.
func newRoom(size int) string {
	var b strings.Builder
	b.WriteString(`{"initial_state":[`)
	for i := 0; b.Len() < size-100 && i < interceptors.MaxValues/5-2; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		_, _ = fmt.Fprintf(&b, `{"type":"t","state_key":"%d","content":{}}`, i)
	}
	b.WriteString("]}")
	return b.String() + strings.Repeat(" ", size-b.Len())
}

// createRoom sends one in the background; the channel gets its answer.
func (g *rig) createRoom(token, body string, chunked bool) <-chan answer {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	head := "POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + token + "\r\n"
	tail := ""
	if chunked {
		head += "Transfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n", len(body))
		tail = "\r\n0\r\n\r\n"
	} else {
		head += fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body))
	}
	// Nothing but a reader, so that no copy of the body is made here.
	all := struct{ io.Reader }{io.MultiReader(strings.NewReader(head), strings.NewReader(body), strings.NewReader(tail))}
	go func() { _, _ = io.Copy(struct{ io.Writer }{conn}, all) }()
	got := make(chan answer, 1)
	go func() {
		defer close(got)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return
		}
		raw, _ := io.ReadAll(resp.Body)
		got <- answer{resp, string(raw)}
	}()
	return got
}

// memoryUse returns what lives on the heap, and what the process has taken for it.
func memoryUse() (live, mapped int64) {
	runtime.GC()
	s := []runtimemetrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(s)
	return int64(s[0].Value.Uint64()), int64(s[1].Value.Uint64()) - int64(s[2].Value.Uint64())
}

// Attack vector: one account makes rooms with bodies of 15 MB, 12 at a time, made of so
// many small things that they take dozens of times as much when they are decoded. That
// took a process from 24 MB to 6.6 GB.
//
// Expected: a body that is larger than any room needs is refused before it is read. Of
// those that are just small enough only as many are taken in as the account's share of
// memory allows; the others get 429 with retry_after_ms. Memory stays in bounds, another
// account's request passes meanwhile, and the first account goes on afterwards.
func TestOneAccountCannotExhaustTheMemory(t *testing.T) {
	g, arrived, release := memoryRig(t, nil)
	const many = 12
	huge, body := `{"initial_state":[`+strings.Repeat(`{},`, 5<<20)+`{}]}`, newRoom(roomBody)
	before, mappedBefore := memoryUse()
	for i := range many {
		a, ok := <-g.createRoom("alice", huge, i%2 == 0)
		if !ok || a.StatusCode != http.StatusRequestEntityTooLarge || a.errcode() != "M_TOO_LARGE" {
			t.Fatalf("15 MB are answered %+v", a)
		}
	}
	taken := int(g.proxy.limits.BodyMemoryPerUser / interceptors.DecodingCost(roomBody))
	answers := make(chan answer, many)
	for i := range many {
		got := g.createRoom("alice", body, i%2 == 0)
		go func() { answers <- <-got }()
		if i < taken { // one after the other, so that it is known which
			<-arrived
		}
	}
	for range many - taken {
		a := <-answers
		if a.Response == nil || a.StatusCode != http.StatusTooManyRequests || a.errcode() != "M_LIMIT_EXCEEDED" ||
			!strings.Contains(a.body, `"retry_after_ms":1000`) || a.Header.Get("Retry-After") != "1" {
			t.Errorf("one too many is answered %+v", a)
		}
	}
	if live, mapped := memoryUse(); live-before > g.proxy.limits.BodyMemoryPerUser || mapped-mappedBefore > 256<<20 {
		t.Errorf("the heap grew by %d MiB, the process by %d MiB", (live-before)>>20, (mapped-mappedBefore)>>20)
	}
	if a := <-g.createRoom("bob", body, false); a.Response == nil || a.StatusCode != http.StatusOK {
		t.Errorf("another account is answered %+v", a)
	}
	if a := g.do("GET", "/_matrix/client/v3/publicRooms", "", "Authorization: Bearer alice"); a.StatusCode != http.StatusOK {
		t.Errorf("what has no body is answered %d", a.StatusCode)
	}
	release()
	for range taken {
		if a := <-answers; a.Response == nil || a.StatusCode != http.StatusOK {
			t.Errorf("one that was taken in is answered %+v", a)
		}
	}
	eventually(t, "all is given back", func() bool { return g.proxy.memory.Taken() == 0 })
	if a := <-g.createRoom("alice", body, true); a.Response == nil || a.StatusCode != http.StatusOK {
		t.Errorf("afterwards it is answered %+v", a)
	}
}

// Attack vector: many accounts, or one that need not say who it is, announce bodies and
// never send them, so that what is set aside for them is lost to everybody.
//
// Expected: what is announced counts, for its own user and network only, until there is
// nothing left for anybody; what is refused costs the sender nothing.
func TestAnnouncedBodiesCountForWhoeverAnnouncesThem(t *testing.T) {
	t.Parallel()
	const share = 2 * (4*smallBody + 160*smallBody/2)
	g, _, _ := memoryRig(t, func(o *Options) {
		o.Limits.BodyMemory, o.Limits.BodyMemoryPerUser = 3*share+1<<20, max(share, interceptors.DecodingCost(roomBody))
	})
	// All that one user may announce.
	announce := func(token string, size int) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = fmt.Fprintf(conn, "POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n{", token, size)
		return conn, bufio.NewReader(conn)
	}
	reserved := func(n int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d bytes are set aside", n), func() bool { return g.proxy.memory.Taken() == n })
	}
	room := interceptors.DecodingCost(roomBody)
	first, _ := announce("alice", roomBody)
	reserved(room)
	for _, size := range []int{roomBody, smallBody} {
		_, in := announce("alice", size)
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("alice's second of %d bytes: %v, %v", size, resp, err)
		}
	}
	announce("bob", roomBody)
	reserved(2 * room)
	announce("carol", roomBody)
	reserved(3 * room)
	if _, in := announce("dave", roomBody); in != nil {
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusTooManyRequests {
			t.Errorf("nothing is left, but dave: %v, %v", resp, err)
		}
	}
	_ = first.Close()
	reserved(2 * room)
	announce("dave", roomBody)
	reserved(3 * room)
}

// Attack vector: a body of unknown length grows while it is read.
//
// Expected: memory is set aside before each further part of it is read, up to the limit
// of the route, and what cannot be set aside is not read.
func TestMemoryIsSetAsideBeforeABodyIsRead(t *testing.T) {
	t.Parallel()
	b := &body{from: io.NopCloser(endless{}), size: 1 << 20, left: 1 << 20, deadline: readDeadline{conn: http.NewResponseController(&deadlines{})}}
	g, _, _ := memoryRig(t, nil)
	q := &request{route: &route{}, body: b, r: httptest.NewRequest("POST", "/", nil), who: alice()}
	q.r.ContentLength = -1
	giveBack, err := g.proxy.reserve(q)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 300<<10)
	for got := int64(0); ; {
		n, err := b.Read(p)
		got += int64(n)
		if taken := g.proxy.memory.Taken(); taken < interceptors.DecodingCost(got-1) { // a last byte shows the end
			t.Fatalf("%d bytes are read and %d set aside", got, taken)
		}
		if err != nil {
			if got != 1<<20 {
				t.Errorf("%d bytes were read: %v", got, err)
			}
			break
		}
	}
	giveBack()
	if taken := g.proxy.memory.Taken(); taken != 0 {
		t.Errorf("%d are left", taken)
	}
}

// endless is a body of spaces without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// In whose name memory is set aside: a user's, whatever the device; an application
// service's for all whom it acts for; a network's where nobody is named.
func TestWhoPaysForABody(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	from := func(remote, forwarded string) *request {
		r := httptest.NewRequest("POST", "/", nil)
		r.RemoteAddr = remote
		if forwarded != "" {
			r.Header.Set("X-Forwarded-For", forwarded)
		}
		return &request{r: r}
	}
	user := from("192.0.2.1:5", "")
	user.who = alice()
	bridge := from("192.0.2.1:5", "")
	bridge.who, bridge.asserter = alice(), "@bridge:hs"
	for _, test := range []struct {
		q       *request
		trusted string
		want    string
	}{
		{q: user, want: "@alice:hs"},
		{q: bridge, want: "@bridge:hs"},
		{q: from("192.0.2.1:5", "192.0.2.1"), want: "192.0.2.1"},
		{q: from("192.0.2.1:5", "203.0.113.9, 192.0.2.1"), want: "192.0.2.1"},
		{q: from("192.0.2.1:5", "203.0.113.9, 192.0.2.1"), trusted: "192.0.2.0/24", want: "203.0.113.9"},
		{q: from("192.0.2.1:5", "198.51.100.1, 203.0.113.9, 192.0.2.1"), trusted: "192.0.2.0/24", want: "203.0.113.9"},
		{q: from("192.0.2.1:5", "nonsense, 192.0.2.1"), trusted: "192.0.2.0/24", want: "192.0.2.1"},
		{q: from("[2001:db8:1:2:3:4:5:6]:5", "2001:db8:1:2:3:4:5:6"), want: "2001:db8:1:2::/64"},
	} {
		g.proxy.trusted = nil
		if test.trusted != "" {
			g.proxy.trusted = append(g.proxy.trusted, mustPrefix(t, test.trusted))
		}
		if got := g.proxy.memoryOwner(test.q); got != test.want {
			t.Errorf("%s via %v: %s pays, want %s", test.q.r.RemoteAddr, test.q.r.Header, got, test.want)
		}
	}
}

// A table with a body that nobody could ever send is a mistake, found at the start.
func TestEveryBodyFitsIntoAShare(t *testing.T) {
	t.Parallel()
	var l Limits
	l.BodyMemoryPerUser = interceptors.DecodingCost(roomBody)
	l = l.withDefaults()
	rows := allRoutes()
	for _, r := range rows {
		r.run = sayName(r.handler)
		if r.class == classPass || r.maxBody == largeBody {
			r.run = nil
		}
	}
	if err := checkMemory(rows, l); err != nil {
		t.Error(err)
	}
	l.BodyMemoryPerUser--
	if err := checkMemory(rows, l); err == nil || strings.Count(err.Error(), "createRoom") != 2 {
		t.Errorf("with less than a room needs: %v", err)
	}
	// What the configuration demands at least is enough.
	if err := checkMemory(rows, Limits{BodyMemory: 16 << 20, BodyMemoryPerUser: 16 << 20}.withDefaults()); err != nil {
		t.Error(err)
	}
	l = Limits{}.withDefaults()
	for _, r := range rows {
		if r.maxBody == largeBody && r.bodyUse == bodyDecoded {
			r.run = sayName("new")
			if err := checkMemory([]*route{r}, l); err == nil {
				t.Errorf("%s %s: 16 MiB in memory are fine", r.method, r.pattern)
			}
		}
	}
}

func mustPrefix(t *testing.T, s string) netip.Prefix {
	t.Helper()
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		t.Fatal(err)
	}
	return prefix
}

// Report: some hundred people with Element X use up the memory that is set aside for bodies,
// and everybody else is told to try again later: each of their long polls holds its share
// for as long as it waits.
//
// Expected: a body that only passes is not held, so that nothing is set aside for it.
func TestLongPollsHoldNoMemory(t *testing.T) {
	t.Parallel()
	arrived, goOn := make(chan struct{}), make(chan struct{})
	g := newRig(t, func(o *Options) {
		o.Handlers[interceptors.SlidingSync] = func(x *interceptors.Exchange) error { return x.Upstream.Forward(x) }
	})
	g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/whoami") {
			_, _ = io.WriteString(w, `{"user_id":"@alice:hs","device_id":"ALICE"}`)
			return
		}
		close(arrived)
		<-goOn
		_, _ = io.WriteString(w, `{"pos":"1"}`)
	}
	body := `{"lists":{"all":{"ranges":[[0,9]]}}` + strings.Repeat(" ", 4<<10) + `}`
	done := make(chan answer, 1)
	go func() {
		done <- g.do("POST", "/_matrix/client/v4/sync", body, "Authorization: Bearer alice", "Content-Type: application/json")
	}()
	<-arrived
	if held := g.proxy.memory.Taken(); held != 0 {
		t.Errorf("%d bytes are set aside while it waits", held)
	}
	close(goOn)
	if a := <-done; a.StatusCode != http.StatusOK || a.body != `{"pos":"1"}` {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if got := g.hs.all(); len(got) != 1 || got[0].Body != body || got[0].Target != "/_matrix/client/v4/sync" {
		t.Errorf("upstream saw %+v", got)
	}
}
