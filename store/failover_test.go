package store

import (
	"context"
	"errors"
	"strings"
	"testing"

	"e2ee-proxy/internal/testpg"
)

func ratchetOf(n uint32) *Changes {
	return &Changes{OutboundSessions: []OutboundSession{{
		RoomID: "!r1", SessionID: "s", Pickle: []byte(ratchet("!r1", n)), CreatedAt: at(1), Messages: n,
	}}}
}

// A replica is stopped by its machine. Another one takes its account and sends a message with
// the next index. Then PostgreSQL fails over to a standby that has neither the change of owner
// nor the index, and a pooler hides that from both. The first replica goes on: in the database
// it is the owner, in the right epoch, and the index is free. It must not use it, nor may
// anybody else.
func TestFailoverThatLostAChangeOfOwner(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var primary testpg.Server
	t.Cleanup(func() { _ = primary.Stop() }) // killed below
	server := primary.Database(t)
	standby := primary.Standby(t)
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	p, url := newPooler(t, server)
	url += "&default_query_exec_mode=cache_describe"
	a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
	acct, dev := device(t, a, alice, "A")
	save(t, a, acct, dev.ID, ratchetOf(1))
	standby.CatchUp(t, &primary)

	dies(t, a)
	save(t, b, claim(t, b, alice), dev.ID, ratchetOf(2))
	primary.Kill(t)
	standby.Promote(t)
	p.to(standby.Follows(t, server))

	for range 5 { // some of its sessions may have ended
		err := a.Save(ctx, acct, dev.ID, ratchetOf(2))
		if err == nil {
			t.Fatal("the former owner used the index again")
		}
		if errors.Is(err, ErrLeaseLost) {
			break
		}
	}
	if err := a.Lease(); !errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), lostWithAServer) {
		t.Errorf("the former owner: %v", err)
	}
	for range 5 {
		if b.renew(context.WithoutCancel(ctx)); errors.Is(b.Lease(), ErrLeaseLost) {
			break
		}
	}
	if err := b.Lease(); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the owner: %v", err)
	}
	c := replica(t, url, "http://c")
	if c.Restored() == "" {
		t.Error("not taken for restored")
	}
	mine := claim(t, c, alice)
	if s, err := c.OutboundSession(ctx, mine, dev.ID, "!r1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("message %d of the session can be used again, %v", s.Messages, err)
	}
}
