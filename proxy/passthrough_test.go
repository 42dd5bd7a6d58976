package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The header of an answer of unknown length does not wait for its body.
func TestHeaderPassesBeforeItsBody(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	release := make(chan struct{})
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Early", "yes")
			_ = http.NewResponseController(w).Flush()
			<-release
			_, _ = io.WriteString(w, "late")
		}
	})
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	resp, err := http.Get(g.front.URL + "/_matrix/client/v3/joined_rooms")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Early") != "yes" {
		t.Errorf("header: %v", resp.Header)
	}
	once.Do(func() { close(release) })
	if raw, err := io.ReadAll(resp.Body); err != nil || string(raw) != "late" {
		t.Errorf("body: %q, %v", raw, err)
	}
}

// Attack vector: what the proxy keeps of one request is used again for the next. Somebody without a
// token, or of whose request nothing is known, asks on a busy proxy until they get what was
// left there: another's token, query, body or answer.
//
// Expected: each request goes up with its own, and each answer to who asked.
func TestNothingIsLeftForTheNextRequest(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			said := fmt.Sprintf("%s|%s|%s|%s|%s", r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("X-Own"), body)
			if strings.Contains(r.RequestURI, "tell=header") {
				w.Header().Set("X-Said", "1")
			}
			_, _ = io.WriteString(w, said)
		}
	})
	const rooms, directory = "/_matrix/client/v3/joined_rooms", "/_matrix/client/v3/user_directory/search"
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for i := range 60 {
				method, path, body, token := http.MethodGet, rooms, "", ""
				switch (n + i) % 4 {
				case 0:
					path, token = fmt.Sprintf("%s?n=%d&tell=header", rooms, n), fmt.Sprintf("Bearer secret-%d-%d", n, i)
				case 1:
					method, path, body = http.MethodPost, directory, strings.Repeat("x", n+i)
				case 2:
					path = "/_matrix/client/v3/rooms//x"
				}
				req, err := http.NewRequest(method, g.front.URL+path, strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				own := ""
				if token != "" {
					own = fmt.Sprint(n)
					req.Header.Set("Authorization", token)
					req.Header.Set("X-Own", own)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				raw, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				want := fmt.Sprintf("%s|%s|%s|%s|%s", method, path, token, own, body)
				refused := strings.Contains(path, "//")
				if err != nil || refused != (resp.StatusCode == http.StatusBadRequest) || !refused && string(raw) != want {
					t.Errorf("%d: got %q (%v), want %q", resp.StatusCode, raw, err, want)
				}
				if said := resp.Header.Get("X-Said") != ""; said != (token != "") {
					t.Errorf("%s has another's header: %v", path, resp.Header)
				}
			}
		})
	}
	all.Wait()
	if log := g.log.String(); strings.Contains(log, "secret-") {
		t.Error("a token is in the log")
	}
}

// A homeserver that answers before it has read a body leaves nobody who reads on in it, and the
// client gets the answer.
func TestAnswerBeforeTheBodyWasRead(t *testing.T) {
	t.Parallel()
	base := rawHomeserver(t, func(conn net.Conn, _ *http.Request) {
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 2\r\n\r\n{}")
	})
	g := newRig(t, func(o *Options) { o.Homeserver = base })
	// Nothing more comes from the client either.
	if a := g.raw("PUT", "PUT /_matrix/client/v3/room_keys/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin"); a.StatusCode != http.StatusRequestEntityTooLarge || a.body != "{}" {
		t.Errorf("%d %q", a.StatusCode, a.body)
	}
	lent := &lentBody{from: strings.NewReader("more")}
	if err := lent.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := lent.Read(make([]byte, 4)); n != 0 || !errors.Is(err, errLentBody) {
		t.Errorf("read %d bytes of a body that was given back: %v", n, err)
	}
}

// told records which statuses were written.
type told struct {
	http.ResponseWriter
	codes []int
}

func (w *told) WriteHeader(code int) { w.codes = append(w.codes, code) }

// What comes before an answer has no way to the client once that is there.
func TestEarlyAnswersEnd(t *testing.T) {
	t.Parallel()
	w := &told{ResponseWriter: httptest.NewRecorder()}
	early := earlyAnswers{to: w}
	for range 2 {
		if err := early.pass(http.StatusEarlyHints, map[string][]string{"Link": {"x"}}); err != nil || len(w.codes) != 1 || len(w.Header()) != 0 {
			t.Errorf("told %v, with %v left in the header: %v", w.codes, w.Header(), err)
		}
		early.end()
	}
}

// A watch whose time has run out may be about to close the body that it watched. It must never
// watch another: that would be cut off in the middle.
func TestWatchThatRanOutIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pool watchPool
		out, in := io.Pipe()
		go func() {
			time.Sleep(time.Hour)
			_ = in.Close()
		}()
		b := pool.watch(out, time.Second)
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, errStalled) {
			t.Fatalf("read: %v", err)
		}
		pool.keep(b)
		if b.ReadCloser == nil {
			t.Error("it was kept")
		}
		quick := pool.watch(io.NopCloser(strings.NewReader("all")), time.Second)
		if raw, err := io.ReadAll(quick); err != nil || string(raw) != "all" {
			t.Fatalf("read: %q, %v", raw, err)
		}
		pool.keep(quick)
		if quick.ReadCloser != nil {
			t.Error("it was not kept, or keeps its body")
		}
		again := pool.watch(io.NopCloser(strings.NewReader("more")), time.Minute)
		time.Sleep(time.Hour)
		if raw, err := io.ReadAll(again); err != nil || string(raw) != "more" || again.left < time.Minute {
			t.Errorf("the next: %q, %v, %v left", raw, err, again.left)
		}
		time.Sleep(time.Hour)
	})
}

// A client that does not say what it is goes up as that.
func TestNoUserAgentIsInvented(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.do("GET", "/_matrix/client/v3/joined_rooms", "")
	if v, ok := g.hs.all()[0].Header["User-Agent"]; ok {
		t.Errorf("the homeserver saw %q", v)
	}
}
