package e2ee_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/testdb"
	"e2ee-proxy/store"
)

// What can go wrong for a process that lives on: its client hangs up, the database does
// not answer a question, or it does not take what is written. Each happens at the n-th
// point of one piece of work; a point is a statement, or a request to the homeserver.
type disturbance int

const (
	// clientGone ends the context of the request that began the work: before a statement, or
	// when the homeserver has done what it was asked and its answer is not read yet.
	clientGone disturbance = iota
	// readFails fails a query.
	readFails
	// writeFails fails a statement that writes, or the begin of a transaction.
	writeFails
	// commitFails fails the end of a transaction, of which nobody knows what came.
	commitFails
	// answerLost loses the answer of the homeserver, which has done what it was asked.
	answerLost
)

func (k disturbance) String() string {
	return [...]string{"the client hangs up", "a read fails", "a write fails", "a commit fails", "an answer is lost"}[k]
}

var errDisturbed = errors.New("disturbed by the test")

// trouble disturbs what its rig does, once, when it is armed.
type trouble struct {
	testdb.Hook
	base http.Transport
	calm bool // nothing is to be disturbed

	mu     sync.Mutex
	armed  bool
	kind   disturbance
	at     int // the point to disturb, from 1; 0 disturbs nothing
	seen   int
	cancel context.CancelFunc
	where  string // the statement that was disturbed
}

// rig returns a rig that can be disturbed.
func (tr *trouble) rig(t *testing.T, hs *liar.Server) *rig {
	t.Helper()
	return newRigOn(t, hs, tr.data(t), tr.options)
}

// rigOf is rig for what was prepared.
func (tr *trouble) rigOf(t *testing.T, p *prepared) *rig {
	t.Helper()
	return p.rig(t, tr.data(t), tr.options)
}

func (tr *trouble) data(t *testing.T) func(*store.Options) {
	t.Cleanup(tr.base.CloseIdleConnections)
	tr.Watch(tr.statement)
	return func(o *store.Options) { o.Wrap = tr.Wrap }
}

func (tr *trouble) options(o *e2ee.Options) {
	o.Client, o.Spread = &http.Client{Transport: tr}, -1
	if tr.calm {
		o.CheckLocks()
	}
}

// during runs a piece of work and disturbs it at its n-th point.
func (tr *trouble) during(t *testing.T, kind disturbance, at int, work func(ctx context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tr.mu.Lock()
	tr.armed, tr.kind, tr.at, tr.seen, tr.cancel = true, kind, at, 0, cancel
	tr.mu.Unlock()
	err := work(ctx)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.armed = false
	return err
}

// hit reports whether there was a point to disturb.
func (tr *trouble) hit() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.at > 0 && tr.seen >= tr.at
}

// statement is asked before each statement.
func (tr *trouble) statement(text string) error {
	word, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	reads := word == "SELECT" || (word == "WITH" && !strings.Contains(text, "UPDATE ") && !strings.Contains(text, "INSERT ") && !strings.Contains(text, "DELETE "))
	fails := map[disturbance]bool{
		readFails: reads, commitFails: word == "COMMIT",
		writeFails: !reads && word != "COMMIT" && word != "ROLLBACK" && word != "PRAGMA" && word != "RELEASE",
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if !tr.armed || (tr.kind != clientGone && !fails[tr.kind]) {
		return nil
	}
	if tr.seen++; tr.seen != tr.at {
		return nil
	}
	tr.where = text
	if tr.kind == clientGone {
		tr.cancel()
		return nil
	}
	return errDisturbed
}

// RoundTrip makes the requests of the engine, which are points too.
func (tr *trouble) RoundTrip(r *http.Request) (*http.Response, error) {
	kind, now := tr.request(r)
	resp, err := tr.base.RoundTrip(r)
	if !now || err != nil {
		return resp, err
	}
	err = errDisturbed
	if kind == clientGone {
		tr.cancel()
		if err = r.Context().Err(); err == nil {
			return resp, nil // it was not made for this client
		}
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// request counts a request, and tells whether it is the one to disturb.
func (tr *trouble) request(r *http.Request) (kind disturbance, now bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if !tr.armed || (tr.kind != clientGone && tr.kind != answerLost) {
		return tr.kind, false
	}
	if tr.kind == answerLost && strings.HasSuffix(r.URL.Path, "/keys/query") {
		return tr.kind, false // nobody is waited for who cannot be asked about: TestFailedKeyQuery
	}
	if tr.seen++; tr.seen != tr.at {
		return tr.kind, false
	}
	tr.where = r.Method + " " + r.URL.Path
	return tr.kind, true
}

// scene is one piece of work in a world of its own.
type scene struct {
	// work does it; whatever it answers, the client goes on with again.
	work func(ctx context.Context) error
	// again is what a client does that got an error: usually the same.
	again func(ctx context.Context) error
	// between looks, if it is set, at how things stand before that: as before the work, or as
	// after it.
	between func(err error)
	// outcome describes how things stand after that.
	outcome func() string
}

// everyPoint makes the tests called TestDisturbed… and TestCrash… try every point of a piece
// of work. Otherwise they take a sample, because all of them cost as much as all other tests
// of the engine together. The Makefile sets it for a run without the race detector.
const everyPoint = "E2EE_PROXY_EVERY_POINT"

// sooner is how often the engine may have done a piece of work by itself before it is disturbed.
const sooner = 5

// nextPoint returns how far it is to the next point that is tried.
func nextPoint(t *testing.T) int {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestDisturbed") && !strings.HasPrefix(t.Name(), "TestCrash") {
		t.Fatalf("by its name %s is not run for every point", t.Name())
	}
	if os.Getenv(everyPoint) != "" {
		return 1
	}
	return 23
}

// everyDisturbance does a piece of work undisturbed, and then with each disturbance at each
// of its points; whatever happens, a client that goes on finds the same in the end, and until
// then an error that does not say more than is known. When the engine has ended nothing of it
// runs any more. The undisturbed work takes its locks in the order that they have.
func everyDisturbance(t *testing.T, atLeast int, set func(t *testing.T, tr *trouble) scene) {
	t.Helper()
	disturbances(t, atLeast, set, clientGone, readFails, writeFails, commitFails, answerLost)
}

// disturbances is everyDisturbance for some kinds.
func disturbances(t *testing.T, atLeast int, set func(t *testing.T, tr *trouble) scene, kinds ...disturbance) {
	t.Helper()
	run := func(t *testing.T, kind disturbance, at int) (disturbed bool, outcome string) {
		t.Helper()
		tr := &trouble{calm: at == 0}
		watched(t, at <= 1, func() {
			s := set(t, tr)
			err := tr.during(t, kind, at, s.work)
			if err != nil && !tr.hit() {
				t.Fatalf("undisturbed: %v", err)
			}
			t.Logf("%s: %.200s: %v", kind, tr.where, err)
			wantUndecided(t, err)
			if s.between != nil {
				s.between(err)
			}
			if err != nil {
				if s.again == nil {
					s.again = s.work
				}
				if again := s.again(t.Context()); again != nil {
					t.Fatalf("it failed with %q, and cannot be done again: %v", err, again)
				}
			}
			outcome = s.outcome()
		})
		return tr.hit(), outcome
	}
	_, want := run(t, clientGone, 0)
	for _, kind := range kinds {
		t.Run(strings.ReplaceAll(kind.String(), " ", "_"), func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n += nextPoint(t) {
				disturbed, ok := false, true
				// What the engine does by itself may have been sooner.
				for try := 0; ok && !disturbed && (try == 0 || n == 1 && try < sooner); try++ {
					ok = t.Run(fmt.Sprint(n), func(t *testing.T) {
						var got string
						if disturbed, got = run(t, kind, n); got != want {
							t.Errorf("%s at point %d: it ends with\n%s\nundisturbed with\n%s", kind, n, got, want)
						}
					})
				}
				switch {
				case !ok:
					t.FailNow()
				case !disturbed && kind != readFails && kind != answerLost && n == 1:
					t.Fatal("the work has no such point: the test tests nothing")
				case !disturbed && kind == clientGone && n <= atLeast:
					t.Fatalf("the work has %d points: the test tests nothing", n-1)
				case !disturbed:
					t.Logf("%s: %d points", kind, n-1)
					return
				}
			}
		})
	}
}
