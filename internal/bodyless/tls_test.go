package bodyless_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"e2ee-proxy/internal/bodyless"
)

// serveTLS is serve with TLS. change may be nil.
func serveTLS(t *testing.T, change func(*tls.Config), talk func(s *server, n int, c net.Conn, in *bufio.Reader)) (s *server, roots *x509.CertPool) {
	t.Helper()
	ts := httptest.NewUnstartedServer(nil)
	ts.StartTLS() // for its certificate
	t.Cleanup(ts.Close)
	config := &tls.Config{Certificates: ts.TLS.Certificates, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	if change != nil {
		change(config)
	}
	s = serve(t, func(s *server, n int, c net.Conn, _ *bufio.Reader) {
		safe := tls.Server(&together{Conn: c}, config)
		talk(s, n, safe, bufio.NewReader(safe))
	})
	s.url = "https" + strings.TrimPrefix(s.url, "http")
	return s, ts.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
}

// together is a connection on which what is written between hold and release arrives at once.
type together struct {
	net.Conn
	holds bool
	held  []byte
}

func (c *together) Write(p []byte) (int, error) {
	if c.holds {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *together) release() {
	c.holds = false
	_, _ = c.Conn.Write(c.held)
}

// Attack: as TestAttackAnswerBeforeItsRequest, but what comes too early comes with the answer before
// it, so that TLS has read it, in a record of its own or in the same one.
func TestAttackAnswerBehindAnother(t *testing.T) {
	t.Parallel()
	const forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
	long := "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 5000)
	for name, records := range map[string][]string{
		"a record of its own": {ok, forged}, "the same record": {ok + forged}, "the same record, behind the buffer": {long + forged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, roots := serveTLS(t, nil, func(s *server, n int, c net.Conn, in *bufio.Reader) {
				for {
					if _, there := s.request(in); !there {
						return
					}
					if n > 1 {
						_, _ = io.WriteString(c, ok)
						continue
					}
					raw := c.(*tls.Conn).NetConn().(*together)
					raw.holds = true
					for _, r := range records {
						_, _ = io.WriteString(c, r)
					}
					raw.release()
				}
			})
			tr := transport(t, func(o *bodyless.Options) { o.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} })
			if _, _, err := get(t.Context(), tr, s.url); err != nil {
				t.Fatal(err)
			}
			wantText(t, tr, s.url, "ok")
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	tr := transport(t, func(o *bodyless.Options) { o.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} })
	for range 3 {
		wantText(t, tr, s.URL, "ok")
	}
	if conns.Load() != 1 {
		t.Errorf("%d connections", conns.Load())
	}
	if _, _, err := get(t.Context(), transport(t, nil), s.URL); err == nil {
		t.Error("a certificate of nobody is trusted")
	}
}

// What goes through here and what does not begins TLS in the same way: a server that refuses one of them
// would be half a server.
func TestHandshakeIsThatOfOthers(t *testing.T) {
	t.Parallel()
	s, roots := serveTLS(t, func(c *tls.Config) { c.NextProtos = []string{"other"} }, always(ok))
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	theirs := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols)}
	theirs.Protocols.SetHTTP1(true)
	t.Cleanup(theirs.CloseIdleConnections)
	wantText(t, theirs, s.url, "ok")
	wantText(t, transport(t, func(o *bodyless.Options) { o.TLS = config }), s.url, "ok")
}
