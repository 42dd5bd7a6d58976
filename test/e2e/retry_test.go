package e2e

import (
	"net/http"
	"sync"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// Dendrite (0.15.2) makes another event of each request that comes while the first is under way,
// and of each that comes after a restart. Through the proxy a message is one event, however
// impatient its client is, and whatever was restarted meanwhile (requirement 19.11).
func TestRetryIsOneEventWhereTransactionsAreForgotten(t *testing.T) {
	t.Parallel()
	hs := tesths.Dendrite(t)
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
	alice := element(t, hs, testpeer.NodeHost(t), "alice")
	script := newAccount(t, hs, "script")
	room := bring(t, hs, alice, script)
	bob := newCurl(t, proxy.URL, script)
	bob.SendText(room, "hello")

	path := roomPath(room, "send/m.room.message/%s", "impatient")
	events := make(map[string]int)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var sent struct {
				EventID string `json:"event_id"`
			}
			err := (tesths.Client{URL: proxy.URL}).As(script).Call(t.Context(), http.MethodPut, path, text("at once"), &sent)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			events[sent.EventID]++
		})
	}
	group.Wait()
	if len(events) != 1 {
		t.Errorf("8 requests at once became %d events: %v", len(events), events)
	}

	path = roomPath(room, "send/m.room.message/%s", "retried")
	first := bob.put(path, text("once"))
	for _, restart := range []func() error{
		func() error { return proxy.Restart(t.Context()) },
		func() error { return hs.Restart(t.Context()) },
		func() error { return proxy.Restart(t.Context()) },
	} {
		if err := restart(); err != nil {
			t.Fatal(err)
		}
	}
	if again := bob.put(path, text("once")); again != first {
		t.Errorf("two events: %s, %s", first, again)
	}
	wantClean(t, alice.AwaitDecrypted(room, first), "once")
}
