package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// An account that was claimed again, or made again, comes after what it was before.
func TestTenuresSucceedEachOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := replica(t, postgres.Database(t), "http://a")
	if !db.Clustered() {
		t.Error("it is not one of several")
	}
	first := claim(t, db, alice)
	if err := db.Release(ctx, first); err != nil {
		t.Fatal(err)
	}
	second := claim(t, db, alice)
	if err := db.DeleteAccount(ctx, second); err != nil {
		t.Fatal(err)
	}
	third := claim(t, db, alice)
	all := []*Account{first, second, third}
	for i, a := range all {
		for j, b := range all {
			same(t, fmt.Sprintf("%d succeeds %d", i, j), a.Succeeds(b), i > j)
		}
	}
	same(t, "changes of owner", []int64{first.Epoch(), third.Epoch()}, []int64{1, 1})
	if second.Epoch() <= first.Epoch() {
		t.Error("claiming it again is no change of owner")
	}
}

// What another replica would claim is misplaced, and what it does not want is not.
func TestMisplaced(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a := replica(t, url, "http://a")
	for i := range 40 {
		claim(t, a, id.UserID(fmt.Sprintf("@u%d:hs", i)))
	}
	same(t, "misplaced without others", len(must[[]id.UserID](t)(a.Misplaced(ctx, 100))), 0)
	b := replica(t, url, "http://b")
	users := must[[]id.UserID](t)(a.Misplaced(ctx, 100))
	if len(users) < 5 || len(users) > 35 {
		t.Fatalf("%d of 40 are misplaced", len(users))
	}
	same(t, "some of them", len(must[[]id.UserID](t)(a.Misplaced(ctx, 3))), 3)
	same(t, "the other's", len(must[[]id.UserID](t)(b.Misplaced(ctx, 100))), 0)
	for _, user := range users {
		if err := a.Release(ctx, claim(t, a, user)); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "left for the one that released them", len(must[[]*Account](t)(a.ClaimOrphans(ctx, 100))), 0)
	same(t, "claimed by the other", len(must[[]*Account](t)(b.ClaimOrphans(ctx, 100))), len(users))
	if err := b.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	same(t, "misplaced where nobody takes them", len(must[[]id.UserID](t)(a.Misplaced(ctx, 100))), 0)
}

// A replica whose rules changed has what it withheld judged again, and not what others did.
func TestHeldBackUnderOtherRulesOfAReplica(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
	var ready [2]func() int
	for i, db := range []*DB{a, b} {
		acct := claim(t, db, id.UserID(fmt.Sprintf("@u%d:hs", i)))
		dev := must[Device](t)(db.CreateDevice(ctx, acct, Device{DeviceID: "A", State: DeviceOurs}))
		save(t, db, acct, dev.ID, &Changes{Pending: []PendingEvent{{SessionRef: ref("!r", "m1"), EventID: "$held", From: "@carol:hs", Event: []byte("{}")}}})
		ready[i] = func() int { return len(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 10))) }
	}
	if err := a.HeldBackUnder(ctx, "other rules"); err != nil {
		t.Fatal(err)
	}
	same(t, "ready where the rules changed, and elsewhere", []int{ready[0](), ready[1]()}, []int{1, 0})
}

// A process that was stopped for longer than its row lasts knows that by itself, before it has
// asked anybody.
func TestMayActUntilTheTimeHasRunOut(t *testing.T) {
	t.Parallel()
	db := replica(t, postgres.Database(t), "http://a")
	if err := db.MayAct(); err != nil {
		t.Errorf("within its time: %v", err)
	}
	db.lease.mu.Lock()
	db.lease.renewed = time.Now().Add(-db.lease.lasts - time.Second)
	db.lease.mu.Unlock()
	if err := db.MayAct(); !errors.Is(err, ErrNotOwner) {
		t.Errorf("after its time: %v", err)
	}
	db.renew(t.Context())
	if err := db.MayAct(); err != nil {
		t.Errorf("after it was renewed: %v", err)
	}
	_ = db.lease.lose("as the test wants it")
	if err := db.MayAct(); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("without a row: %v", err)
	}
}
