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

// preparedAlice is a homeserver on which alice has one device, in order, and its database.
type preparedAlice struct {
	mu    sync.Mutex
	made  bool
	hs    *liar.Server
	alice liar.Session
	data  testdb.Snapshot
}

var aliceInOrder preparedAlice

// copy gives a homeserver of the test's own, and what the proxy's database holds.
func (p *preparedAlice) copy(t *testing.T) (*liar.Server, liar.Session, testdb.Snapshot) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.made {
		hs := liar.New(t)
		r := newRig(t, hs, func(o *e2ee.Options) { o.Spread = -1 })
		s := hs.Login("alice", "ALICE")
		d := r.device(s)
		ready(t, d)
		settle(t, d)
		r.stop()
		data, err := testdb.Take(r.path)
		if err != nil {
			t.Fatal(err)
		}
		p.hs, p.alice, p.data, p.made = hs, s, data, true
	}
	return p.hs.Copy(t), p.alice, p.data
}
