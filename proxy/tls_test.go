package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/interceptors"
)

// servingTLS starts Serve with TLS. It returns the base URL, a client that speaks HTTP/2 or
// HTTP/1.1, a way to stop Serve, and its result.
func servingTLS(t *testing.T, http2 bool, change func(*Options)) (g *rig, url string, client *http.Client, stop context.CancelFunc, result <-chan error) {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	t.Cleanup(donor.Close)
	g = newRig(t, func(o *Options) {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: donor.TLS.Certificates}
		if change != nil {
			change(o)
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetHTTP2(http2)
	t.Cleanup(transport.CloseIdleConnections)
	addr, stop, result := g.serving()
	return g, "https://" + addr, &http.Client{Transport: transport}, stop, result
}

// ask sends a request as Alice and reads the answer.
func ask(t *testing.T, client *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer alice")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp, string(got)
}

// With a certificate clients get HTTP/2 and HTTP/1.1, and the homeserver the same requests
// either way.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{true, false} {
		t.Run(fmt.Sprint("HTTP/2 ", http2), func(t *testing.T) {
			t.Parallel()
			g, url, client, _, _ := servingTLS(t, http2, nil)
			resp, body := ask(t, client, "GET", url+"/_matrix/client/v3/joined_rooms?x=1", nil)
			if resp.StatusCode != 200 || body != "{}" || (resp.ProtoMajor == 2) != http2 || resp.TLS == nil || resp.TLS.Version < tls.VersionTLS12 {
				t.Errorf("%d %s over HTTP/%d", resp.StatusCode, body, resp.ProtoMajor)
			}
			if resp, _ := ask(t, client, "PUT", url+"/_matrix/client/v3/rooms/!r:hs/send/m.room.message/1", strings.NewReader("{}")); resp.Header.Get("X-Intercepted") != interceptors.Send {
				t.Errorf("a send is not intercepted: %d %v", resp.StatusCode, resp.Header)
			}
			large := strings.Repeat("0123456789abcdef", 3<<16)
			if resp, _ := ask(t, client, "POST", url+"/_matrix/media/v3/upload", strings.NewReader(large)); resp.StatusCode != 200 {
				t.Errorf("an upload: %d", resp.StatusCode)
			}
			got := g.hs.all()
			if len(got) != 2 || got[0].Target != "/_matrix/client/v3/joined_rooms?x=1" || "http://"+got[0].Host != g.hs.URL || got[1].Body != large {
				t.Errorf("the homeserver got %d requests, the first %s at %s", len(got), got[0].Target, got[0].Host)
			}
		})
	}
}

// Attack vector (29, 30): with HTTP/2 a path comes as a field of its own, which nothing before
// the proxy has looked at.
//
// Expected: it is judged as every other.
func TestHTTP2PathsAreJudged(t *testing.T) {
	t.Parallel()
	g, url, client, _, _ := servingTLS(t, true, nil)
	for _, path := range []string{
		"/_matrix//client/v3/rooms/!r:hs/send/x/1", "/_matrix/client/v3/../v3/rooms/!r:hs/send/x/1", "/_matrix/client/v3/rooms/!r:hs/send%2Fx/1",
		"/%5Fmatrix/client/v3/rooms/!r:hs/send/x/1", "/_MATRIX/client/v3/rooms/!r:hs/send/x/1",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = path
		req.Header.Set("Authorization", "Bearer alice")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_ = resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode < 400 {
			t.Errorf("%s over HTTP/%d: %d", path, resp.ProtoMajor, resp.StatusCode)
		}
	}
	if got := g.hs.all(); len(got) != 0 {
		t.Errorf("the homeserver got %v", got)
	}
}

// Over HTTP/2 as over HTTP/1.1 a client may wait for an answer for longer than a body may
// stand still, before the answer and within it, and a handler may take its time between the
// parts of a request's body.
func TestHTTP2WaitsLongerThanIdle(t *testing.T) {
	t.Parallel()
	const idle = 300 * time.Millisecond // a busy machine may hold a part up for a while
	wait := func(ctx context.Context) { // several times as long as a body may stand still
		timer, done := context.WithTimeout(ctx, 5*idle)
		defer done()
		<-timer.Done()
	}
	_, url, client, _, _ := servingTLS(t, true, func(o *Options) {
		o.Deadlines.Idle = idle
		o.Handlers[interceptors.Sync] = func(x *interceptors.Exchange) error {
			wait(x.Request.Context())
			for _, part := range []string{`{"next_batch":`, `"s1"}`} {
				if _, err := io.WriteString(x.Writer, part); err != nil {
					return err
				}
				if err := http.NewResponseController(x.Writer).Flush(); err != nil {
					return err
				}
				wait(x.Request.Context())
			}
			return nil
		}
		o.Handlers[interceptors.Send] = func(x *interceptors.Exchange) error {
			half := make([]byte, 7)
			if _, err := io.ReadFull(x.Request.Body, half); err != nil {
				return err
			}
			wait(x.Request.Context())
			rest, err := io.ReadAll(x.Request.Body)
			if err != nil {
				return err
			}
			_, err = x.Writer.Write(append(half, rest...))
			return err
		}
	})
	if resp, body := ask(t, client, "GET", url+"/_matrix/client/v3/sync", nil); resp.StatusCode != 200 || body != `{"next_batch":"s1"}` {
		t.Errorf("a sync: %d %s", resp.StatusCode, body)
	}
	if resp, body := ask(t, client, "PUT", url+"/_matrix/client/v3/rooms/!r:hs/send/x/1", strings.NewReader(`{"body":"hello"}`)); resp.StatusCode != 200 || body != `{"body":"hello"}` {
		t.Errorf("a send: %d %s", resp.StatusCode, body)
	}
}

// Attack vector (39): a client asks for much over HTTP/2 and takes nothing of it, while it
// keeps its connection in order, so that the answer is held for ever.
//
// Expected: the request ends when nothing was taken for the time that a body may stand still.
func TestHTTP2ClientThatTakesNothing(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	_, url, client, _, _ := servingTLS(t, true, func(o *Options) {
		o.Deadlines.Idle = 100 * time.Millisecond
		o.Handlers[interceptors.Sync] = func(x *interceptors.Exchange) error {
			part := bytes.Repeat([]byte{' '}, 64<<10)
			for {
				if _, err := x.Writer.Write(part); err != nil {
					ended <- err
					return err
				}
			}
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/_matrix/client/v3/sync", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer alice")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the answer is still being written")
	}
}

// At shutdown parked syncs of HTTP/2 return, and Serve ends.
func TestHTTP2Drain(t *testing.T) {
	t.Parallel()
	g, url, client, stop, result := servingTLS(t, true, func(o *Options) { o.Handlers[interceptors.Sync] = relayed })
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.RequestURI, "whoami") {
				_, _ = io.WriteString(w, `{"user_id":"@alice:hs","device_id":"A"}`)
				return
			}
			<-r.Context().Done()
		}
	})
	parked := make(chan string, 1)
	go func() {
		resp, body := ask(t, client, "GET", url+"/_matrix/client/v3/sync?timeout=30000&since=s1", nil)
		parked <- fmt.Sprint(resp.StatusCode, " ", body)
	}()
	eventually(t, "the sync is parked", func() bool { return len(g.hs.all()) == 1 })
	stop()
	if got := <-parked; got != `200 {"next_batch":"s1"}` {
		t.Errorf("the parked sync: %s", got)
	}
	client.CloseIdleConnections()
	if err := <-result; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// Old versions of TLS are refused, and so is what is not TLS.
func TestTLSIsNotOld(t *testing.T) {
	t.Parallel()
	g, url, _, _, _ := servingTLS(t, true, nil)
	addr := strings.TrimPrefix(url, "https://")
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		_ = conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = io.WriteString(plain, "GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n")
	if answer, _ := io.ReadAll(plain); strings.Contains(string(answer), "200 OK") || len(g.hs.all()) != 0 {
		t.Errorf("a request without TLS got %q", answer)
	}
}
