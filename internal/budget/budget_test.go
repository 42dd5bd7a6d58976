package budget_test

import (
	"errors"
	"math"
	"strconv"
	"sync"
	"testing"

	"e2ee-proxy/internal/budget"
)

// What one owner holds leaves the others their part, and a refusal says whether to wait.
func TestShares(t *testing.T) {
	t.Parallel()
	b := budget.New(100, 40)
	for _, step := range []struct {
		owner string
		n     int64
		want  error
	}{
		{"alice", 40, nil},
		{"alice", 1, budget.ErrSpent},
		{"alice", 41, budget.ErrNever},
		{"alice", 0, nil},
		{"alice", -1, budget.ErrNever},
		{"bob", 40, nil},
		{"carol", 21, budget.ErrSpent},
		{"carol", 20, nil},
		{"dave", 1, budget.ErrSpent},
		{"dave", math.MaxInt64, budget.ErrNever},
	} {
		if err := b.Take(step.owner, step.n); !errors.Is(err, step.want) {
			t.Errorf("%s takes %d: %v, want %v", step.owner, step.n, err, step.want)
		}
	}
	if got := b.Taken(); got != 100 {
		t.Errorf("%d are taken", got)
	}
	b.Release("alice", 40)
	if err := b.Take("dave", 40); err != nil {
		t.Errorf("what was given back: %v", err)
	}
	for owner, n := range map[string]int64{"bob": 40, "carol": 20, "dave": 40} {
		b.Release(owner, n)
	}
	if got := b.Taken(); got != 0 {
		t.Errorf("%d are left", got)
	}
}

// What is passed on counts for whoever has it, within that one's share, and for all together once.
func TestPassing(t *testing.T) {
	t.Parallel()
	b := budget.New(100, 40)
	if err := b.Take("alice", 30); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		from, to string
		n        int64
		want     bool
	}{
		{"alice", "bob", 31, false},
		{"alice", "bob", -1, false},
		{"carol", "bob", 1, false},
		{"alice", "bob", 20, true},
		{"alice", "alice", 10, true},
		{"bob", "alice", 20, true},
		{"alice", "bob", 30, true},
	} {
		if got := b.Pass(step.from, step.to, step.n); got != step.want {
			t.Errorf("%d from %s to %s: %v", step.n, step.from, step.to, got)
		}
	}
	if err := b.Take("alice", 40); err != nil || b.Taken() != 70 {
		t.Errorf("%v, %d are taken", err, b.Taken())
	}
	if b.Pass("alice", "bob", 11) {
		t.Error("more than a share")
	}
	b.Release("alice", 40)
	b.Release("bob", 30)
	if got := b.Taken(); got != 0 {
		t.Errorf("%d are left", got)
	}
}

// A budget of nothing gives nothing; a share is never more than all.
func TestLimitsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, limits := range [][2]int64{{0, 0}, {10, 0}, {0, 10}, {-1, 5}} {
		if err := budget.New(limits[0], limits[1]).Take("a", 1); !errors.Is(err, budget.ErrNever) {
			t.Errorf("%v: %v", limits, err)
		}
	}
	if got := budget.New(10, 20).Share(); got != 10 {
		t.Errorf("the share is %d", got)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	b := budget.New(1000, 100)
	var all sync.WaitGroup
	for i := range 8 {
		owner := strconv.Itoa(i)
		all.Go(func() {
			for range 1000 {
				if err := b.Take(owner, 60); err != nil {
					t.Errorf("%s: %v", owner, err)
				}
				if err := b.Take(owner, 60); !errors.Is(err, budget.ErrSpent) {
					t.Errorf("%s got more than its share: %v", owner, err)
				}
				b.Release(owner, 60)
			}
		})
	}
	all.Wait()
	if got := b.Taken(); got != 0 {
		t.Errorf("%d are left", got)
	}
}

// Before anybody is refused, what is kept only because there was room is given back: that of
// whose share is spent, or anybody's, and no more than is needed.
func TestGivingBack(t *testing.T) {
	t.Parallel()
	b := budget.New(100, 60)
	held := map[string]int{"alice": 2, "bob": 2}
	b.OnSpent(func(owner string) bool {
		for _, of := range []string{"alice", "bob"} {
			if held[of] > 0 && (owner == "" || owner == of) {
				held[of]--
				b.Release(of, 25)
				return true
			}
		}
		return false
	})
	for of, n := range held {
		for range n {
			if err := b.Take(of, 25); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, step := range []struct {
		owner      string
		n          int64
		want       error
		alice, bob int
	}{
		{"bob", 30, nil, 1, 1},               // its own share first, then the rest
		{"carol", 61, budget.ErrNever, 1, 1}, // nothing helps
		{"carol", 10, nil, 1, 1},
		{"carol", 45, nil, 0, 0},
		{"dave", 60, budget.ErrSpent, 0, 0},
	} {
		if err := b.Take(step.owner, step.n); !errors.Is(err, step.want) || held["alice"] != step.alice || held["bob"] != step.bob {
			t.Errorf("%s takes %d: %v, left are %v", step.owner, step.n, err, held)
		}
	}
}
