package e2ee_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testdb"
	"e2ee-proxy/store"
)

// What nearly every test begins with is made once, by the proxy itself; each test then
// goes on from a copy of its own, as a proxy does that was started again. What the making
// is worth is tested where it is the matter: bootstrap, publishing, crashes, disturbances.

// noData is a database that has its tables and nothing in them.
var noData = sync.OnceValues(func() (s testdb.Snapshot, err error) {
	dir, err := os.MkdirTemp("", "e2ee-proxy-")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	keys, err := masterKeys()
	if err != nil {
		return s, err
	}
	path := filepath.Join(dir, "e2ee.db")
	db, err := store.Open(context.Background(), store.Options{URL: secret.NewString("sqlite:" + path), MasterKeys: keys})
	if err != nil {
		return s, err
	}
	if err := db.Close(); err != nil {
		return s, err
	}
	return testdb.Take(path)
})

// prepared is a homeserver, a session on it, and the database of the session's proxy.
type prepared struct {
	hs      *liar.Server
	session liar.Session
	data    testdb.Snapshot
}

// prepare ends a proxy and keeps what there is.
func prepare(t *testing.T, r *rig, s liar.Session) *prepared {
	t.Helper()
	r.stop()
	data, err := testdb.Take(r.path)
	if err != nil {
		t.Fatal(err)
	}
	return &prepared{r.hs, s, data}
}

// rig starts a proxy on a copy of all that, with a homeserver of its own.
func (p *prepared) rig(t *testing.T, data func(*store.Options), change func(*e2ee.Options)) *rig {
	t.Helper()
	return newRigWith(t, p.hs.Copy(t), p.data, data, change)
}

// kept is what is prepared by the test that needs it first.
type kept struct {
	mu   sync.Mutex
	made *prepared
}

var inOrderAlice kept

// aliceInOrder has alice with one device, ALICE, which is in order.
func aliceInOrder(t *testing.T) *prepared {
	t.Helper()
	inOrderAlice.mu.Lock()
	defer inOrderAlice.mu.Unlock()
	if inOrderAlice.made == nil {
		hs := liar.New(t)
		r := newRig(t, hs, func(o *e2ee.Options) { o.Spread = -1 })
		s := hs.Login("alice", "ALICE")
		d := r.device(s)
		ready(t, d)
		settle(t, d)
		inOrderAlice.made = prepare(t, r, s)
	}
	return inOrderAlice.made
}
