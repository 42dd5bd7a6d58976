package e2e

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// Issue: "sync tokens unaffected". While somebody talks with the proxy in the control room, and
// nothing happens at the homeserver, every token that the client is given is the homeserver's: it
// takes it, and what the client has is known by it. What was said comes once, in order, whether the
// client waits or not, and again only to who asks again; it comes at once.
func TestTokensOfSyncsAreTheHomeservers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		account := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, account, "BOB1")
		room := bob.controlRoom()
		bob.awaitInOrder()
		direct := hs.Client().As(bob.account)
		settle(bob)
		for round, wait := range []time.Duration{0, 20 * time.Second, 0, 20 * time.Second} {
			before, old := len(bob.timeline[room]), bob.since
			began := time.Now()
			bob.send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": "help"})
			for n := 0; len(bob.timeline[room]) < before+2; n++ {
				if n == 10 {
					t.Fatalf("round %d: no answer in ten syncs", round)
				}
				bob.sync(wait)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("round %d: the answer came after %v", round, took)
			}
			if strings.Contains(bob.since, "proxy") || bob.since == old {
				t.Errorf("round %d: the token is %q, after %q", round, bob.since, old)
			}
			var got struct {
				NextBatch string `json:"next_batch"`
			}
			if err := direct.Call(t.Context(), http.MethodGet, "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(bob.since), nil, &got); err != nil {
				t.Errorf("round %d: the homeserver refuses %q: %v", round, bob.since, err)
			}
			again := *bob
			again.since, again.timeline = old, map[string][]tesths.Event{}
			again.sync(0)
			ids := func(all []tesths.Event) (out []string) {
				for _, e := range all {
					out = append(out, e.EventID)
				}
				return out
			}
			repeated, first := ids(again.timeline[room]), ids(bob.timeline[room][before:])
			if len(repeated) == 0 || len(repeated) > len(first) || !slices.Equal(repeated, first[:len(repeated)]) {
				t.Errorf("round %d: from the older token %q, before it was %q", round, repeated, first)
			}
		}
		seen := map[string]bool{}
		for _, e := range bob.timeline[room] {
			if seen[e.EventID] {
				t.Errorf("%s came twice", e.EventID)
			}
			seen[e.EventID] = true
		}
		if bob.saw("dev.e2ee-proxy.moved") {
			t.Error("the client saw what moves the tokens")
		}
		settle(bob)
		// The token may move: other tests have the same homeserver, and Synapse counts all lists of devices.
		began := time.Now()
		bob.sync(2 * time.Second)
		if took := time.Since(began); took < 1900*time.Millisecond {
			t.Errorf("with nothing new a sync takes %v", took)
		}
	})
}

// settle syncs until nothing is new.
func settle(c *curl) {
	c.t.Helper()
	for n := 0; ; n++ {
		since := c.since
		if c.sync(300 * time.Millisecond); c.since == since {
			return
		}
		if n == 50 {
			c.t.Fatal("there is always something new")
		}
	}
}
