package proxy

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const plainRequest = "GET /_matrix/client/v3/joined_rooms HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// sendRaw opens a connection and sends bytes over it; it returns what comes back.
func sendRaw(t *testing.T, addr, bytes string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, bytes); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(conn) // a reset is an answer too
	return string(got)
}

// version2 returns a header of version 2 with a command, an address family and what follows.
func version2(t *testing.T, head, body string) string {
	t.Helper()
	raw, err := hex.DecodeString("0d0a0d0a000d0a515549540a" + head + body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A load balancer that is trusted names the client in the PROXY protocol, as the
// specification of HAProxy has it.
//
// Attack vector (35, 36): a client writes such a header itself, where the proxy can be
// reached past the load balancer, or where the load balancer does not send one.
//
// Expected: who is not trusted says nothing, and who is trusted has to say something.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		trusted string
		sent    string
		want    string // what the homeserver is told; empty when it gets nothing
	}{
		{"version 1", "127.0.0.0/8", "PROXY TCP4 198.51.100.1 203.0.113.1 4711 443\r\n" + plainRequest, "198.51.100.1"},
		{"version 1, IPv6", "127.0.0.0/8", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n" + plainRequest, "2001:db8::1"},
		{"version 1, unknown", "127.0.0.0/8", "PROXY UNKNOWN\r\n" + plainRequest, "127.0.0.1"},
		{"version 2", "127.0.0.0/8", version2(t, "2111000c", "c6336401cb007101126701bb") + plainRequest, "198.51.100.1"},
		{"version 2, its own check", "127.0.0.0/8", version2(t, "20000000", "") + plainRequest, "127.0.0.1"},
		{"version 2, IPv6", "127.0.0.0/8", version2(t, "21210024", "20010db800000000000000000000000120010db8000000000000000000000002126701bb") + plainRequest, "2001:db8::1"},
		{"no header from who is trusted", "127.0.0.0/8", plainRequest, ""},
		{"a broken header", "127.0.0.0/8", "PROXY TCP4 198.51.100.1 rubbish\r\n" + plainRequest, ""},
		{"two headers", "127.0.0.0/8", "PROXY TCP4 198.51.100.1 203.0.113.1 1 2\r\nPROXY TCP4 6.6.6.6 203.0.113.1 1 2\r\n" + plainRequest, ""},
		{"a header from who is not trusted", "10.0.0.0/8", "PROXY TCP4 6.6.6.6 203.0.113.1 4711 443\r\n" + plainRequest, ""},
		{"version 2 from who is not trusted", "10.0.0.0/8", version2(t, "2111000c", "06060606cb007101126701bb") + plainRequest, ""},
		{"none from who is not trusted", "10.0.0.0/8", plainRequest, "127.0.0.1"},
	} {
		g := newRig(t, func(o *Options) {
			o.ProxyProtocol, o.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix(c.trusted)}
		})
		addr, _, _ := g.serving()
		answer := sendRaw(t, addr, c.sent)
		got := ""
		if all := g.hs.all(); len(all) > 0 {
			got = all[0].Header.Get("X-Forwarded-For")
		}
		if got != c.want || strings.HasPrefix(answer, "HTTP/1.1 200 ") != (c.want != "") {
			t.Errorf("%s: the homeserver is told %q, want %q; the client %q", c.name, got, c.want, answer)
		}
	}
}

// Where it is not set, a header is no request, whoever sends it.
func TestProxyProtocolIsOffByDefault(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	addr, _, _ := g.serving()
	if answer := sendRaw(t, addr, "PROXY TCP4 6.6.6.6 203.0.113.1 4711 443\r\n"+plainRequest); !strings.HasPrefix(answer, "HTTP/1.1 400 ") || len(g.hs.all()) != 0 {
		t.Errorf("the answer is %q", answer)
	}
}

// A load balancer that passes TLS on unopened sends the header before it.
func TestProxyProtocolBeforeTLS(t *testing.T) {
	t.Parallel()
	g, url, client, _, _ := servingTLS(t, false, func(o *Options) {
		o.ProxyProtocol, o.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	plain, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := io.WriteString(plain, "PROXY TCP4 198.51.100.1 203.0.113.1 4711 443\r\n"); err != nil {
		t.Fatal(err)
	}
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		t.Fatal("no transport")
	}
	settings := transport.TLSClientConfig.Clone()
	settings.ServerName = "example.com"
	conn := tls.Client(plain, settings)
	if _, err := io.WriteString(conn, plainRequest); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if all := g.hs.all(); resp.StatusCode != 200 || len(all) != 1 || all[0].Header.Get("X-Forwarded-For") != "198.51.100.1" || all[0].Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("%d; the homeserver got %v", resp.StatusCode, all)
	}
}

// Attack vector (39): a connection from a trusted address on which the header never ends.
func TestSlowProxyHeader(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) {
		o.ProxyProtocol, o.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		o.Deadlines.Header = 50 * time.Millisecond
	})
	addr, stop, result := g.serving()
	if answer := sendRaw(t, addr, "PROXY TCP4 198."); answer != "" {
		t.Errorf("the answer is %q", answer)
	}
	stop()
	if err := <-result; err != nil {
		t.Error(err)
	}
}
