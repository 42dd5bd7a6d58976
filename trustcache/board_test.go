package trustcache

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"
)

// board is a Board in memory, behind which an attacker may sit.
type board struct {
	mu      sync.Mutex
	values  map[string][]byte
	rounds  map[string]uint64
	claims  map[string]uint64
	heard   []func([]byte)
	said    [][]byte
	left    []map[string][]byte
	deaf    bool // messages get lost
	gone    bool // nothing works
	replays func(name string) []byte
}

func newBoard() *board {
	return &board{values: map[string][]byte{}, rounds: map[string]uint64{}, claims: map[string]uint64{}}
}

func (b *board) Newest(_ context.Context, names []string) ([][]byte, []uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	values, rounds := make([][]byte, len(names)), make([]uint64, len(names))
	for i, name := range names {
		switch {
		case b.gone:
		case b.replays != nil:
			values[i], rounds[i] = b.replays(name), b.rounds[name]
		default:
			values[i], rounds[i] = b.values[name], b.rounds[name]
		}
	}
	return values, rounds
}

func (b *board) Claim(_ context.Context, names []string, rounds []uint64) []bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]bool, len(names))
	for i, name := range names {
		if out[i] = b.gone || b.claims[name] <= rounds[i]; out[i] {
			b.claims[name] = rounds[i] + 1
		}
	}
	return out
}

func (b *board) Leave(_ context.Context, values map[string][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return
	}
	for name, value := range values {
		b.values[name] = value
		b.rounds[name]++
	}
	b.left = append(b.left, maps.Clone(values))
}

func (b *board) Say(_ context.Context, message []byte) {
	b.mu.Lock()
	b.said = append(b.said, message)
	all := b.heard
	if b.deaf || b.gone {
		all = nil
	}
	b.mu.Unlock()
	for _, hear := range all {
		hear(message)
	}
}

func (b *board) edit(f func(*board)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

// cluster is a town whose accounts are in several replicas.
type cluster struct {
	*town
	board    *board
	replicas []*Answers
}

func newCluster(t testing.TB, people, replicas int) *cluster {
	t.Helper()
	c := &cluster{town: newTown(t, people), board: newBoard()}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for range replicas {
		a := NewAnswers(AnswersOptions{Board: c.board})
		c.board.heard = append(c.board.heard, a.Heard)
		c.replicas = append(c.replicas, a)
	}
	for _, a := range c.replicas {
		running.Go(func() { a.Run(ctx) })
	}
	return c
}

// settle waits until every replica has said how far it is.
func (c *cluster) settle() { c.passes(10 * time.Millisecond) }

// passes lets time pass, which is that of a bubble of synctest.
func (c *cluster) passes(d time.Duration) { <-time.After(d) }

// Three replicas with many accounts need everybody at once, then again since everybody has
// changed, then accounts that come later: the homeserver is asked once about each.
func TestReplicasAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 10, 3)
		var all []*resident
		for i := range 150 {
			all = append(all, c.move(i, c.replicas[i%3]))
		}
		c.settle()
		together(all[:120], func(r *resident) { c.fresh(r, "PHONE") })
		c.wantAsked("at once", 1)
		for _, r := range all[120:] {
			c.fresh(r, "PHONE")
		}
		c.wantAsked("one after the other", 1)
		for _, p := range c.people {
			c.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("TABLET"))
		}
		var group sync.WaitGroup
		for i, r := range all {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 20 * time.Microsecond)
				r.changed(c.users()...)
				c.fresh(r, "TABLET")
			})
		}
		group.Wait()
		c.wantAsked("after a change", 2)
	})
}

// Fifty accounts of three replicas look up the same thousand users at the same time: the homeserver
// is asked once about each of the users, and not 150,000 times about devices.
func TestAThousandUsersAreAskedAboutOnce(t *testing.T) {
	t.Parallel()
	users := 1000 // the signatures of 50,000 answers are checked
	if testing.Short() {
		users = 20
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, users, 3)
		var all []*resident
		for i := range 50 {
			all = append(all, c.move(i, c.replicas[i%3]))
		}
		c.settle()
		together(all, func(r *resident) { r.looks(c.users()...) })
		c.wantAsked("by all", 1)
	})
}

// A replica that needs somebody again and again is not kept from asking by its own claims.
func TestClaimsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 2)
		a, b := c.move(0, c.replicas[0]), c.move(1, c.replicas[1])
		c.settle()
		for i := range 10 {
			device := id.DeviceID(fmt.Sprintf("D%d", i))
			c.srv.publish(c.people[0], c.people[0].signedDevice(device))
			begun := time.Now()
			a.changed(c.users()...)
			c.fresh(a, device)
			b.changed(c.users()...)
			c.settle()
			c.fresh(b, device)
			if took := time.Since(begun); took > 200*time.Millisecond {
				t.Errorf("took %v", took)
			}
		}
	})
}

// A replica that is killed while the others wait for its answer costs them a pause, and so
// does one whose session ends. A board that is gone costs nothing but queries.
func TestBoardFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, 2)
		a, b := c.move(0, c.replicas[0]), c.move(1, c.replicas[1])
		c.settle()
		a.asks = asker(func(ctx context.Context, _ []id.UserID) (*QueryResult, error) { <-ctx.Done(); return nil, ctx.Err() })
		var group sync.WaitGroup
		group.Go(func() { _, _ = a.Lookup(context.Background(), a.asks, c.users()) })
		time.Sleep(100 * time.Millisecond)
		begun := time.Now()
		c.fresh(b, "PHONE")
		if took := time.Since(begun); took > answerWithin+100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		a.Close()
		group.Wait()
		c.board.edit(func(b *board) { b.gone = true })
		d := c.move(2, c.replicas[0])
		d.changed(c.users()...)
		begun = time.Now()
		c.fresh(d, "PHONE")
		if took := time.Since(begun); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}
