package interceptors_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// movingWorld is a homeserver whose token moves when it is told so, and a device with news.
type movingWorld struct {
	*syncWorld
	mu      sync.Mutex
	token   int
	changed chan struct{}
	moves   int
	refuses bool // the token is not moved
	stands  bool // the homeserver says that it has done it
	next    time.Time
}

// newMovingWorld returns one in which a client that syncs from s1 has everything.
func newMovingWorld(t *testing.T) *movingWorld {
	t.Helper()
	w := &movingWorld{syncWorld: newSyncWorld(t, "", interceptors.SyncOptions{}), token: 1, changed: make(chan struct{})}
	w.up.body = func() io.Reader { return strings.NewReader(fmt.Sprintf(`{"next_batch":"s%d"}`, w.at())) }
	w.up.hold = func(q url.Values, ctx context.Context) error {
		ms, _ := strconv.Atoi(q.Get("timeout"))
		ended := time.After(time.Duration(ms) * time.Millisecond)
		for q.Get("since") == fmt.Sprint("s", w.at()) {
			w.mu.Lock()
			changed := w.changed
			w.mu.Unlock()
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-changed:
			case <-ended:
				return nil
			}
		}
		return nil
	}
	w.dev.moveIn = func() time.Duration {
		w.mu.Lock()
		defer w.mu.Unlock()
		return time.Until(w.next)
	}
	w.dev.move = func() error {
		w.mu.Lock()
		w.moves++
		refuses, stands := w.refuses, w.stands
		w.next = time.Now().Add(time.Second)
		if refuses || stands {
			w.next = time.Now().Add(10 * time.Second)
		}
		w.mu.Unlock()
		if refuses {
			return errors.New("refused")
		}
		if !stands {
			w.advance()
		}
		return nil
	}
	w.dev.stands = func(next string) bool { return w.dev.news && next == "s1" }
	w.dev.extras.Control = told(true, false)
	return w
}

func (w *movingWorld) at() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.token
}

func (w *movingWorld) advance() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.token++
	close(w.changed)
	w.changed = make(chan struct{})
}

// A sync that waits at the homeserver ends when something of the proxy's arrives: the homeserver's
// own token moves, with one request, and the sync is sent once.
func TestSyncThatWaitsHasTheTokenMoved(t *testing.T) {
	t.Parallel()
	w := newMovingWorld(t)
	synctest.Test(t, func(t *testing.T) {
		w.changed = make(chan struct{})
		var arrive func()
		w.dev.arrived, arrive = context.WithCancel(context.Background())
		time.AfterFunc(5*time.Second, func() {
			w.dev.mu.Lock()
			w.dev.news = true
			w.dev.mu.Unlock()
			arrive()
		})
		began := time.Now()
		out, err := w.sync(t, "since=s1&timeout=30000")
		if err != nil || !strings.Contains(out.Body.String(), `"next_batch":"s2"`) || !strings.Contains(out.Body.String(), "REAL") {
			t.Errorf("got %s, %v", out.Body, err)
		}
		if took := time.Since(began); took != 5*time.Second || w.moves != 1 || len(w.up.syncs) != 1 {
			t.Errorf("after %v, %d moves and %d syncs", took, w.moves, len(w.up.syncs))
		}
	})
}

// However a client syncs, and whatever its homeserver does, the proxy makes few requests, the
// client waits for no longer than it wants to, or a moment, and it is given the homeserver's token.
func TestSyncWithSomethingForTheClient(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, query     string
		refuses, stands bool
		later           time.Duration // when the token moves by itself; zero: never
		want            string
		least, longest  time.Duration
		moves, syncs    int
	}{
		{"waits", "since=s1&timeout=30000", false, false, 0, "s2", 0, 0, 1, 1},
		{"does not wait", "since=s1&timeout=0", false, false, 0, "s2", 0, 0, 1, 1},
		{"says nothing of that", "since=s1", false, false, 0, "s2", 0, 0, 1, 1},
		{"refused, waits", "since=s1&timeout=30000", true, false, 0, "s1", 30 * time.Second, 34 * time.Second, 4, 3},
		{"refused, then it moves", "since=s1&timeout=30000", true, false, 15 * time.Second, "s2", 15 * time.Second, 15 * time.Second, 2, 1},
		{"refused, does not wait", "since=s1&timeout=0", true, false, 0, "s1", 0, time.Second, 1, 2},
		{"stands, waits", "since=s1&timeout=30000", false, true, 0, "s1", 30 * time.Second, 34 * time.Second, 4, 3},
		{"stands, does not wait", "since=s1&timeout=0", false, true, 0, "s1", time.Second, 4 * time.Second, 1, 1},
	} {
		w := newMovingWorld(t)
		w.refuses, w.stands, w.dev.news, w.dev.waiting = tt.refuses, tt.stands, true, true
		synctest.Test(t, func(t *testing.T) {
			w.changed = make(chan struct{})
			if tt.later > 0 {
				time.AfterFunc(tt.later, w.advance)
			}
			w.dev.extras = e2ee.SyncExtras{}
			began := time.Now()
			out, err := w.sync(t, tt.query)
			var got struct {
				NextBatch string `json:"next_batch"`
			}
			if err != nil || json.Unmarshal(out.Body.Bytes(), &got) != nil || got.NextBatch != tt.want {
				t.Errorf("%s: %s, %v", tt.name, out.Body, err)
			}
			if took := time.Since(began); took < tt.least || took > tt.longest || w.moves > tt.moves || len(w.up.syncs) > tt.syncs {
				t.Errorf("%s: after %v, %d moves and %d syncs", tt.name, took, w.moves, len(w.up.syncs))
			}
		})
	}
}

// An answer that comes with the client's own token just when something arrived is asked for again
// once the token has moved: what would be added to it could not be told apart.
func TestSyncAnsweredAMomentTooEarly(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"since=s1&timeout=1000", "timeout=1000"} {
		w := newMovingWorld(t)
		synctest.Test(t, func(t *testing.T) {
			w.changed = make(chan struct{})
			w.dev.news = true // and nothing said so before
			out, err := w.sync(t, query)
			if err != nil || !strings.Contains(out.Body.String(), `"next_batch":"s2"`) || w.moves != 1 || len(w.up.syncs) != 2 || len(w.dev.committed) != 1 {
				t.Errorf("%s: %s, %v after %d moves, %d syncs, %d commits", query, out.Body, err, w.moves, len(w.up.syncs), len(w.dev.committed))
			}
			if a, b := w.up.syncs[0].Get("timeout"), w.up.syncs[1].Get("timeout"); a == b || b == "0" {
				t.Errorf("%s: a homeserver that remembers its answers is asked the same: %s, %s", query, a, b)
			}
		})
	}
}

// bodyOf is a body that ends with its request, and during which something arrives.
type bodyOf struct {
	ctx    context.Context
	arrive func()
	io.Reader
}

func (b *bodyOf) Read(p []byte) (int, error) {
	b.arrive()
	synctest.Wait()
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	return b.Reader.Read(p)
}

// Something that needs no other token arrives while the homeserver's answer is read: the answer
// was cut off, and the client given 502. It is read to its end, and the next sync brings the rest.
func TestSyncIsNotCutOffByWhatArrives(t *testing.T) {
	t.Parallel()
	w := newMovingWorld(t)
	synctest.Test(t, func(t *testing.T) {
		arrived, arrive := context.WithCancel(context.Background())
		w.dev.arrived = arrived
		var ctx context.Context
		w.up.hold = func(_ url.Values, of context.Context) error {
			ctx = of
			return nil
		}
		w.up.body = func() io.Reader { return &bodyOf{ctx, arrive, strings.NewReader(`{"next_batch":"s2"}`)} }
		out, err := w.sync(t, "since=s1&timeout=30000")
		if err != nil || !strings.Contains(out.Body.String(), `"next_batch":"s2"`) || len(w.up.syncs) != 1 {
			t.Errorf("got %s, %v after %d syncs", out.Body, err, len(w.up.syncs))
		}
	})
}

// Attack: the program panics when it moves the token. The client is answered, without what there is
// for it.
func TestSyncThatPanicsWhenItMoves(t *testing.T) {
	t.Parallel()
	w := newMovingWorld(t)
	w.dev.news, w.dev.waiting = true, true
	w.dev.move, w.dev.extras = func() error { panic("an error in the program") }, e2ee.SyncExtras{}
	synctest.Test(t, func(t *testing.T) {
		w.changed = make(chan struct{})
		out, err := w.sync(t, "since=s1&timeout=30000")
		if err != nil || !strings.Contains(out.Body.String(), `"next_batch":"s1"`) || len(w.up.syncs) > 4 {
			t.Errorf("got %s, %v after %v", out.Body, err, w.up.syncs)
		}
	})
}

// A replica that gives its accounts away ends the syncs that wait, also those whose token it could
// not move.
func TestSyncThatWaitsForAMoveEndsWithItsReplica(t *testing.T) {
	t.Parallel()
	w := newMovingWorld(t)
	w.refuses, w.dev.news, w.dev.waiting = true, true, true
	synctest.Test(t, func(t *testing.T) {
		w.changed = make(chan struct{})
		arrivals, arrive := context.WithCancel(context.Background())
		w.dev.arrivals = arrivals
		time.AfterFunc(3*time.Second, func() {
			w.dev.mu.Lock()
			w.dev.leaving = true
			w.dev.mu.Unlock()
			arrive()
		})
		began := time.Now()
		if _, err := w.sync(t, "since=s1&timeout=30000"); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
