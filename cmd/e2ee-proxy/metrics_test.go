package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/liar"
)

// Report: /metrics of a process with two users had 3,385 lines of its own, nearly all of
// them buckets of a histogram by route that nobody reads. Whatever two users do, the page
// stays one that a person can read.
func TestMetricsOfTwoUsersAreFew(t *testing.T) {
	t.Parallel()
	const most = 200
	hs := liar.New(t)
	alice, bob := hs.Login("alice", "A"), hs.Login("bob", "B")
	room := hs.CreateRoom(true, alice.UserID, bob.UserID)
	url, g := startGateway(t, hs.URL)

	for _, who := range []liar.Session{alice, bob} {
		for _, c := range []struct {
			method, path, body string
			want               int
		}{
			{"PUT", "/_matrix/client/v3/rooms/" + room + "/send/m.room.message/1", `{"msgtype":"m.text","body":"hello"}`, 200},
			{"GET", "/_matrix/client/v3/sync?timeout=0", "", 200},
			{"GET", "/_matrix/client/v3/rooms/" + room + "/messages?dir=b", "", 200},
			{"GET", "/_e2ee_proxy/v1/status", "", 200},
			{"POST", "/_matrix/client/v3/keys/query", `{"device_keys":{"` + bob.UserID + `":[]}}`, 200},
			{"PUT", "/_matrix/client/v3/sendToDevice/m.room.encrypted/1", `{"messages":{"` + bob.UserID + `":{"NONE":{}}}}`, 200},
			{"GET", "/_matrix/client/v3/joined_rooms", "", 0},
			{"GET", "/_matrix/client/v3/profile/" + who.UserID, "", 0},
			{"POST", "/_matrix/client/v3/search", `{}`, 0},
			{"BREW", "/_matrix//", "", 0},
		} {
			req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+who.Token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if c.want != 0 && resp.StatusCode != c.want {
				t.Errorf("%s %s is %d, want %d", c.method, c.path, resp.StatusCode, c.want)
			}
		}
	}

	w := httptest.NewRecorder()
	g.ops.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	ours := 0
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "e2ee_proxy_") {
			ours++
		}
	}
	if ours > most {
		t.Errorf("%d lines of metrics, more than %d:\n%s", ours, most, w.Body)
	}
	// What docs/gateway.md tells people to watch is there.
	text, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`e2ee_proxy_\w+`).FindAllString(string(text), -1)
	if len(names) < 8 {
		t.Errorf("docs/gateway.md names only %v", names)
	}
	for _, name := range names {
		if !strings.Contains(w.Body.String(), "\n"+name+"{") && !strings.Contains(w.Body.String(), "\n"+name+" ") && !strings.Contains(w.Body.String(), "TYPE "+name+" ") {
			t.Errorf("docs/gateway.md says to watch %s, which is not on the page:\n%s", name, w.Body)
		}
	}
	for _, want := range []string{
		`e2ee_proxy_request_duration_seconds_bucket{lane="send",le="1"} `, `e2ee_proxy_requests_total{code="200",method="PUT",`,
		`e2ee_proxy_requests_in_flight{lane="poll"} `, `e2ee_proxy_policy_sends_total{outcome="allowed"} `,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want) {
			t.Errorf("the page has no %s:\n%s", want, w.Body)
		}
	}
}

// startGateway runs the proxy within the test, on SQLite.
func startGateway(t *testing.T, homeserver string) (url string, g *gateway) {
	t.Helper()
	cfg := config.Default()
	cfg.Data = t.TempDir()
	if err := cfg.Homeserver.UnmarshalText([]byte(homeserver)); err != nil {
		t.Fatal(err)
	}
	db, err := openStore(t.Context(), &cfg, zerolog.Nop(), new(lostAccounts))
	if err != nil {
		t.Fatal(err)
	}
	registry, err := newRegistry()
	if err != nil {
		t.Fatal(err)
	}
	if g, err = wire(&cfg, zerolog.Nop(), db, registry); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	if err := g.engine.Start(ctx); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.serve(ctx, listeners{clients: ln}) }() // ends with stop
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := g.engine.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String(), g
}
