package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/store"
)

const (
	bearerAlice = "Authorization: Bearer alice"
	sendTarget  = "/_matrix/client/v3/rooms/%21r%3Ahs/send/m.room.message/t1"
)

// says returns a handler that answers with the process that it runs in, what it got and for whom.
func says(name string, count *atomic.Int64) interceptors.Handler {
	return func(x *interceptors.Exchange) error {
		count.Add(1)
		body, err := io.ReadAll(x.Request.Body)
		if err != nil {
			return err
		}
		x.Writer.Header().Set("X-Said-By", name)
		_, _ = fmt.Fprintf(x.Writer, "%s %s %s %s %s %s", x.Request.Method, x.Endpoint.Params["txnId"], x.Identity.UserID, x.Request.Host, x.Request.Header.Get("X-Forwarded-For"), body)
		return nil
	}
}

// saying returns two replicas that say who answers a send or a sync, and counters of that.
func saying(t *testing.T) (a, b *replica, atA, atB *atomic.Int64) {
	t.Helper()
	atA, atB = new(atomic.Int64), new(atomic.Int64)
	names := []string{"a", "b"}
	counts := []*atomic.Int64{atA, atB}
	made := 0
	a, b = pair(t, func(o *Options) {
		h := says(names[made], counts[made])
		o.Handlers[interceptors.Send], o.Handlers[interceptors.Sync] = h, h
		made++
	})
	return a, b, atA, atB
}

func TestRequestGoesToTheOwner(t *testing.T) {
	t.Parallel()
	a, b, atA, atB := saying(t)
	got := a.do("PUT", sendTarget+"?access_token=alice", `{"body":"x"}`, "X-Forwarded-For: 6.6.6.6", "E2ee-Proxy-Cluster-Result: moved", "E2ee-Proxy-Cluster-To: a")
	if got.StatusCode != 200 || got.Header.Get("X-Said-By") != "b" || got.body != `PUT t1 @alice:hs proxy.test 127.0.0.1 {"body":"x"}` {
		t.Errorf("got %d %v %q", got.StatusCode, got.Header, got.body)
	}
	for name := range got.Header {
		if strings.HasPrefix(name, "E2ee-Proxy-Cluster") {
			t.Errorf("the client sees %s", name)
		}
	}
	// Nobody has bob's account: it is taken where he comes.
	if got := a.do("PUT", sendTarget, `{}`, "Authorization: Bearer bob"); got.Header.Get("X-Said-By") != "a" {
		t.Errorf("bob was answered by %q", got.Header.Get("X-Said-By"))
	}
	if got := b.do("PUT", sendTarget, `{}`, "Authorization: Bearer bob"); got.Header.Get("X-Said-By") != "a" {
		t.Errorf("bob was answered by %q", got.Header.Get("X-Said-By"))
	}
	if atA.Load() != 2 || atB.Load() != 1 {
		t.Errorf("%d and %d requests", atA.Load(), atB.Load())
	}
	a.oneLineEach(t, b)
}

// oneLineEach checks that a forwarded request has one line with the same ID in both logs.
func (r *replica) oneLineEach(t *testing.T, other *replica) {
	t.Helper()
	eventually(t, "a line in the log", func() bool { return strings.Contains(r.log.String(), `"forwarded_to":"b"`) })
	for line := range strings.Lines(r.log.String()) {
		if !strings.Contains(line, `"forwarded_to":"b"`) {
			continue
		}
		_, rest, _ := strings.Cut(line, `"request_id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		if n := strings.Count(other.log.String(), `"request_id":"`+id+`"`); id == "" || n != 1 || !strings.Contains(other.log.String(), `"forwarded_from":"a"`) {
			t.Errorf("%d lines for the request %q in the other log", n, id)
		}
	}
}

// The owner that is remembered is asked first, and not the database each time.
func TestOwnerIsRemembered(t *testing.T) {
	t.Parallel()
	a, b, _, atB := saying(t)
	for range 5 {
		a.do("PUT", sendTarget, `{}`, bearerAlice)
	}
	a.view.mu.Lock()
	asked := a.view.asked
	a.view.mu.Unlock()
	if atB.Load() != 5 || asked != 6 { // once here, and each time there
		t.Errorf("%d requests, asked %d times", atB.Load(), asked)
	}
	b.view.give("@alice:hs", "a")
	if got := a.do("PUT", sendTarget, `{"n":1}`, bearerAlice); got.Header.Get("X-Said-By") != "a" || !strings.HasSuffix(got.body, `{"n":1}`) {
		t.Errorf("after the account moved: %q said %q", got.Header.Get("X-Said-By"), got.body)
	}
}

// The owner is killed: its listener is gone, and some moments later it is not among the living.
func TestOwnerThatDiedIsWaitedFor(t *testing.T) {
	t.Parallel()
	a, b, atA, _ := saying(t)
	a.do("PUT", sendTarget, `{}`, bearerAlice)
	b.kill()
	done := make(chan answer, 1)
	go func() { done <- a.do("PUT", sendTarget, `{"n":2}`, bearerAlice) }()
	eventually(t, "a failed try", func() bool { a.view.mu.Lock(); defer a.view.mu.Unlock(); return a.view.asked > 5 })
	b.view.die("b")
	if got := <-done; got.Header.Get("X-Said-By") != "a" || !strings.HasSuffix(got.body, `{"n":2}`) || atA.Load() != 1 {
		t.Errorf("got %d, %q said %q", got.StatusCode, got.Header.Get("X-Said-By"), got.body)
	}
}

// stuck returns a handler that waits until its request is cut, after reading the body.
func stuck(began chan<- struct{}) interceptors.Handler {
	return func(x *interceptors.Exchange) error {
		_, _ = io.ReadAll(x.Request.Body)
		began <- struct{}{}
		<-x.Request.Context().Done()
		return x.Request.Context().Err()
	}
}

// The owner dies, or is frozen and taken for dead, while it works on a request. What can be made
// twice is made again; what cannot is an error, and made once.
func TestOwnerDiesInTheMiddle(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(b *replica){
		"killed": func(b *replica) { b.view.die("b"); b.kill() },
		"frozen": func(b *replica) { b.view.die("b") },
	} {
		for _, c := range []struct {
			method, target, handler string
			status                  int
		}{
			{"PUT", sendTarget, interceptors.Send, 200},
			{"GET", "/_matrix/client/v3/rooms/%21r%3Ahs/messages", interceptors.Messages, 200},
			{"POST", "/_matrix/client/v3/keys/query", interceptors.QueryKeys, 200},
			// Their handlers find out whether it was done.
			{"POST", "/_matrix/client/v3/rooms/%21r%3Ahs/send/m.room.message", interceptors.Send, 200},
			{"POST", "/_matrix/client/v3/createRoom", interceptors.CreateRoom, 200},
			{"POST", "/_matrix/client/v3/account/password", interceptors.Password, 200},
			{"POST", "/_e2ee_proxy/v1/reset", interceptors.ControlReset, 200},
			// It is too large to be kept, and harmless to repeat.
			{"POST", "/_matrix/media/v3/upload", interceptors.UploadFile, 503},
		} {
			t.Run(name+" "+c.method+" "+c.handler, func(t *testing.T) {
				t.Parallel()
				began := make(chan struct{}, 1)
				count := new(atomic.Int64)
				made, again := 0, new(atomic.Bool)
				a, b := pair(t, func(o *Options) {
					o.Handlers[c.handler] = func(x *interceptors.Exchange) error {
						again.Store(x.Again && x.RequestID != "")
						return says("a", count)(x)
					}
					if made == 1 {
						o.Handlers[c.handler] = stuck(began)
					}
					made++
				})
				done := make(chan answer, 1)
				body := `{"n":3}`
				switch {
				case c.method == "GET":
					body = ""
				case c.status == 503:
					body = strings.Repeat("x", 1<<20)
				}
				go func() { done <- a.do(c.method, c.target, body, bearerAlice) }()
				<-began
				die(b)
				got := <-done
				if got.StatusCode != c.status || c.status == 200 && !strings.HasSuffix(got.body, body) || c.status != 200 && got.errcode() != "M_UNKNOWN" {
					t.Errorf("got %d %s", got.StatusCode, got.body)
				}
				if c.status != 200 && got.Header.Get("Retry-After") == "" {
					t.Error("it does not say when to try again")
				}
				if want := int64(1); c.status == 200 && count.Load() != want || c.status != 200 && count.Load() != 0 {
					t.Errorf("made %d times here", count.Load())
				}
				if c.method == http.MethodPost && c.status == 200 && !again.Load() { // others are perhaps made again by the transport
					t.Error("the handler is not told that it may have been done")
				}
			})
		}
	}
}

// A body that is too large to be kept is sent only when the other process takes the request.
func TestLargeBodyIsSentOnceItIsWanted(t *testing.T) {
	t.Parallel()
	count := new(atomic.Int64)
	a, b := pair(t, func(o *Options) { o.Handlers[interceptors.UploadFile] = says("x", count) })
	a.do("PUT", sendTarget, `{}`, bearerAlice)
	b.view.give("@alice:hs", "a") // b is believed to have it, and says that it has not
	large := strings.Repeat("x", 1<<20)
	if got := a.do("POST", "/_matrix/media/v3/upload", large, bearerAlice); got.StatusCode != 200 || !strings.HasSuffix(got.body, large) {
		t.Errorf("here: got %d with %d bytes", got.StatusCode, len(got.body))
	}
	b.view.give("@alice:hs", "b")
	if got := a.do("POST", "/_matrix/media/v3/upload", large, bearerAlice); got.StatusCode != 200 || !strings.HasSuffix(got.body, large) || count.Load() != 2 {
		t.Errorf("there: got %d with %d bytes", got.StatusCode, len(got.body))
	}
}

// A parked sync at another process ends early when either is shut down, and when its owner dies.
func TestParkedSyncEndsEarly(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(a, b *replica){
		"here":  func(a, _ *replica) { a.proxy.Drain() },
		"there": func(_, b *replica) { b.proxy.Drain() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parked := make(chan struct{}, 1)
			a, b := pair(t, func(o *Options) {
				o.Handlers[interceptors.Sync] = func(x *interceptors.Exchange) error { return x.Upstream.Forward(x) }
			})
			a.hs.set(func() {
				a.hs.answer = func(w http.ResponseWriter, r *http.Request) {
					if strings.Contains(r.RequestURI, "whoami") {
						_, _ = io.WriteString(w, `{"user_id":"@alice:hs","device_id":"ALICE"}`)
						return
					}
					parked <- struct{}{}
					<-r.Context().Done()
				}
			})
			done := make(chan answer, 1)
			go func() { done <- a.do("GET", "/_matrix/client/v3/sync?since=s1&timeout=30000", "", bearerAlice) }()
			<-parked
			end(a, b)
			if got := <-done; got.StatusCode != 200 || got.body != `{"next_batch":"s1"}` {
				t.Errorf("got %d %s", got.StatusCode, got.body)
			}
		})
	}
}

// A client that leaves ends its request at the other process too.
func TestLeavingIsPassedOn(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 1)
	ended := make(chan error, 1)
	a, b := pair(t, func(o *Options) {
		o.Handlers[interceptors.Messages] = func(x *interceptors.Exchange) error {
			began <- struct{}{}
			<-x.Request.Context().Done()
			ended <- x.Request.Context().Err()
			return x.Request.Context().Err()
		}
	})
	conn, err := net.Dial("tcp", a.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /_matrix/client/v3/rooms/%21r%3Ahs/messages HTTP/1.1\r\nHost: x\r\n"+bearerAlice+"\r\n\r\n")
	<-began
	_ = conn.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	eventually(t, "the account is free", func() bool { return b.view.used() == 0 && a.view.used() == 0 })
}

// Answers stream: the client has the beginning while the rest is not there yet.
func TestAnswersStream(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	a, _ := pair(t, func(o *Options) {
		o.Handlers[interceptors.Messages] = func(x *interceptors.Exchange) error {
			_, _ = io.WriteString(x.Writer, "first\n")
			_ = http.NewResponseController(x.Writer).Flush()
			<-more
			_, _ = io.WriteString(x.Writer, "second\n")
			return nil
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.front.URL+"/_matrix/client/v3/rooms/%21r%3Ahs/messages", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer alice")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	first, err := in.ReadString('\n')
	close(more)
	if second, serr := in.ReadString('\n'); err != nil || serr != nil || first+second != "first\nsecond\n" {
		t.Errorf("got %q %v %q %v", first, err, second, serr)
	}
}

// Every request that another replica may have can be made again when that is killed. One that is not
// known to be the same the second time is not, and its client is told that it may have been done.
func TestWhatIsMadeAgain(t *testing.T) {
	t.Parallel()
	for _, row := range allRoutes() {
		q := &request{route: row, r: &http.Request{Method: row.method}}
		if row.class != classRefuse && row.auth != authNone && !q.isIdempotent() {
			t.Errorf("%s %s is not made again", row.method, row.pattern)
		}
	}
	for method, want := range map[string]int{"POST": 502, "PATCH": 502, "PUT": 503, "GET": 503} {
		q := &request{route: &route{handler: "new"}, r: &http.Request{Method: method}}
		if got := q.notFound(midwayError{store.ErrNotOwner}); got.Status != want {
			t.Errorf("%s by a handler that is not known: %d", method, got.Status)
		}
	}
}

// An account that is lost while a handler works on it, and a handler that finds its user's account
// elsewhere: the request is made again where the account is, if it can be made twice.
func TestAccountIsLostInTheMiddle(t *testing.T) {
	t.Parallel()
	var l *ledger
	count := new(atomic.Int64)
	made := 0
	a, b := pair(t, func(o *Options) {
		name := []string{"a", "b"}[made]
		made++
		h := func(x *interceptors.Exchange) error {
			if name == "b" {
				if _, err := io.ReadAll(x.Request.Body); err != nil {
					return err
				}
				l.give("@alice:hs", "a")
				return fmt.Errorf("store: %w", store.ErrNotOwner)
			}
			return says(name, count)(x)
		}
		o.Handlers[interceptors.Send], o.Handlers[interceptors.ControlReset] = h, h
	})
	l = a.view.ledger
	for _, via := range []*replica{a, b} { // handed over, and lost by who took it from the client
		l.give("@alice:hs", "b")
		if got := via.do("PUT", sendTarget, `{"n":4}`, bearerAlice); got.StatusCode != 200 || got.Header.Get("X-Said-By") != "a" || !strings.HasSuffix(got.body, `{"n":4}`) {
			t.Errorf("via %s: got %d %s", via.name, got.StatusCode, got.body)
		}
		l.give("@alice:hs", "b")
		if got := via.do("POST", strings.TrimSuffix(sendTarget, "/t1"), `{"n":4}`, bearerAlice); got.StatusCode != 200 || got.Header.Get("X-Said-By") != "a" {
			t.Errorf("via %s, without a transaction ID: got %d %s", via.name, got.StatusCode, got.body)
		}
		l.give("@alice:hs", "b")
		if got := via.do("POST", "/_e2ee_proxy/v1/reset", `{"n":4}`, bearerAlice); got.StatusCode != 200 || got.Header.Get("X-Said-By") != "a" {
			t.Errorf("via %s, a reset: got %d %s", via.name, got.StatusCode, got.body)
		}
	}
}

// The homeserver answers with the header by which replicas talk. It means nothing.
func TestHomeserverCannotSpeakAsAReplica(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, nil)
	a.hs.set(func() {
		a.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.RequestURI, "whoami") {
				_, _ = io.WriteString(w, `{"user_id":"@alice:hs","device_id":"ALICE"}`)
				return
			}
			w.Header().Set("E2ee-Proxy-Cluster-Result", "moved")
			w.WriteHeader(http.StatusMisdirectedRequest)
		}
	})
	got := a.do("GET", "/_matrix/client/v3/media/download/hs/m", "", bearerAlice)
	if n := len(a.hs.all()); got.StatusCode != http.StatusMisdirectedRequest || n != 1 {
		t.Errorf("got %d, and the homeserver %d requests", got.StatusCode, n)
	}
}

// Sends of one device are limited where its account is, whichever process took them.
func TestLimitOfADeviceHoldsAtTheOwner(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	began := make(chan struct{}, 8)
	a, b := pair(t, func(o *Options) {
		o.Limits.Send = LaneLimit{Total: 100, PerIdentity: 2}
		o.Handlers[interceptors.Send] = func(x *interceptors.Exchange) error {
			began <- struct{}{}
			<-hold
			_, _ = io.WriteString(x.Writer, "{}")
			return nil
		}
	})
	done := make(chan answer, 2)
	for _, via := range []*replica{a, b} {
		go func() { done <- via.do("PUT", sendTarget, `{}`, bearerAlice) }()
		<-began
	}
	for _, via := range []*replica{a, b} {
		if got := via.do("PUT", sendTarget, `{}`, bearerAlice); got.StatusCode != http.StatusTooManyRequests {
			t.Errorf("via %s: got %d", via.name, got.StatusCode)
		}
	}
	close(hold)
	for range 2 {
		if got := <-done; got.StatusCode != 200 {
			t.Errorf("got %d %s", got.StatusCode, got.body)
		}
	}
}

// A link to a file is opened without a token, so that only the handler finds out whose it is.
func TestHandlerFindsItsAccountElsewhere(t *testing.T) {
	t.Parallel()
	count := new(atomic.Int64)
	made := 0
	var there store.Replica
	a, b := pair(t, func(o *Options) {
		name := []string{"a", "b"}[made]
		made++
		o.Handlers[interceptors.DownloadFile] = func(x *interceptors.Exchange) error {
			if name == "a" {
				return fmt.Errorf("look a link up: %w", &store.ElsewhereError{Replica: there})
			}
			return says(name, count)(x)
		}
	})
	there = b.view.live["b"]
	if got := a.do("GET", "/_matrix/media/v3/download/hs/link", ""); got.StatusCode != 200 || got.Header.Get("X-Said-By") != "b" {
		t.Errorf("got %d %s", got.StatusCode, got.body)
	}
}

// What the other process answers about a token is looked up again here, and by the next request
// only: a token that was refused there is not believed here.
func TestRefusedTokenIsLookedUpAgain(t *testing.T) {
	t.Parallel()
	a, _ := pair(t, func(o *Options) {
		o.Handlers[interceptors.Messages] = func(x *interceptors.Exchange) error {
			x.Writer.WriteHeader(http.StatusUnauthorized)
			return nil
		}
	})
	const target = "/_matrix/client/v3/rooms/%21r%3Ahs/messages"
	for i := range 3 {
		if got := a.do("GET", target, "", bearerAlice); got.StatusCode != http.StatusUnauthorized {
			t.Fatalf("got %d", got.StatusCode)
		}
		if n := a.hs.whoamis(); n != i+2 { // once there, and here each time
			t.Errorf("%d look-ups after %d requests", n, i+1)
		}
	}
}

// A body that is too large, or that the client does not finish, is the client's mistake: it is told
// so, and the request is not made again.
func TestBadBodyIsNotSentAgain(t *testing.T) {
	t.Parallel()
	count := new(atomic.Int64)
	a, b := pair(t, func(o *Options) {
		o.Handlers[interceptors.Send] = says("b", count)
		o.Deadlines.Idle = time.Second
	})
	chunk := strings.Repeat("x", 0x8000)
	head := "PUT " + sendTarget + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + bearerAlice + "\r\n"
	large := head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("8000\r\n"+chunk+"\r\n", 9) + "0\r\n\r\n"
	if got := a.raw("PUT", large); got.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: got %d %s", got.StatusCode, got.body)
	}
	if got := a.raw("PUT", head+"Content-Length: 10\r\n\r\n{"); got.StatusCode != http.StatusRequestTimeout {
		t.Errorf("not finished: got %d %s", got.StatusCode, got.body)
	}
	eventually(t, "both are in the log", func() bool { return strings.Count(b.log.String(), `"forwarded_from"`) == 2 })
	if n := count.Load(); n != 2 {
		t.Errorf("made %d times", n)
	}
}
