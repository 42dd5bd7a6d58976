package e2ee_test

import (
	"strings"
	"sync"
	"testing"

	"e2ee-proxy/internal/liar"
)

// polls counts the syncs that wait at the homeserver.
type polls struct {
	mu           sync.Mutex
	own, clients int
	both         bool // at the same time, at any time
}

// watch counts the syncs of a user. Those of the proxy are known by their filter.
func (p *polls) watch(hs *liar.Server, user string) {
	hs.Intercept(liar.Of(user, liar.Is("GET", "/sync")), func(r *liar.Request, next func() liar.Reply) liar.Reply {
		count := &p.clients
		if strings.Contains(r.Query, "filter=") {
			count = &p.own
		}
		p.add(count, 1)
		defer p.add(count, -1)
		return next()
	})
}

func (p *polls) add(count *int, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*count += n
	p.both = p.both || p.own > 0 && p.clients > 0
}

func (p *polls) now() (own, clients int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.own, p.clients
}

// The homeserver carries one loop for a device: the proxy's while its client is silent, which
// ends when the client syncs and begins again when it stops. What came over either is used,
// and the client's next sync carries what came for it over the proxy's.
func TestOneLoopPerDevice(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	var at polls
	at.watch(st.hs, st.alice.UserID)
	st.told() // ends the sync that began before
	await(t, "the proxy does not sync for its client", func() bool { own, _ := at.now(); return own == 1 })
	for range 3 {
		in, err := st.dev.BeginSync(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		await(t, "the proxy's sync goes on beside the client's", func() bool { own, _ := at.now(); return own == 0 })
		var resp clientResponse
		call(t, st.hs, st.alice, "GET", "sync?timeout=0", nil, &resp)
		if own, _ := at.now(); own != 0 {
			t.Error("the proxy syncs while its client does")
		}
		if _, err := in.Commit(t.Context(), resp.update("")); err != nil {
			t.Fatal(err)
		}
		in.End()
		await(t, "the proxy's sync does not begin again", func() bool { own, _ := at.now(); return own == 1 })
	}
	if at.both {
		t.Error("the homeserver carried two loops")
	}
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, "@bob:liar.test", "org.example.hello", map[string]any{"n": 1})
	st.told()
	in, err := st.dev.BeginSync(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	if !in.Waiting() {
		t.Error("the client's sync waits at the homeserver although there is something for it")
	}
	var resp clientResponse
	call(t, st.hs, st.alice, "GET", "sync?timeout=0", nil, &resp)
	extras, err := in.Commit(t.Context(), resp.update(""))
	if err != nil || len(extras.ToDevice) != 1 || !strings.Contains(string(extras.ToDevice[0]), `"org.example.hello"`) {
		t.Errorf("%s, %v", extras.ToDevice, err)
	}
}
