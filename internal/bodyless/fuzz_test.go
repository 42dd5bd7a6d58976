package bodyless_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whatever a server answers, net/http's own client reads the same of it, and the request after it
// never reads what is left.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		ok, ok + ok, "HTTP/1.1 204 No Content\r\n\r\n" + ok, "HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n" + ok,
		"HTTP/1.1 100 Continue\r\n\r\n" + ok, "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "\r\n", "x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, said string) {
		if len(said) > 2<<10 || strings.Contains(said, " 101 ") {
			return // another protocol has no end
		}
		s := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
			r, there := s.request(in)
			if there && r.URL.Path == "/after" {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nafter")
			} else if there {
				_, _ = io.WriteString(c, said)
			}
		})
		theirs := &http.Transport{MaxResponseHeaderBytes: 4 << 10, DisableCompression: true, DisableKeepAlives: true, ResponseHeaderTimeout: 10 * time.Second}
		defer theirs.CloseIdleConnections()
		wantStatus, want, wantErr := get(t.Context(), theirs, s.url)
		tr := transport(t, nil)
		status, got, err := get(t.Context(), tr, s.url)
		if status != wantStatus || got != want || (err == nil) != (wantErr == nil) {
			t.Errorf("%q reads as %d %q, %v; net/http reads %d %q, %v", said, status, got, err, wantStatus, want, wantErr)
		}
		wantText(t, tr, s.url+"/after", "after")
	})
}
