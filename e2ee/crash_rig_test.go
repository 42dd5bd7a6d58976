package e2ee_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"
	"modernc.org/sqlite"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// What a process leaves behind is what it has committed to its database and what the
// homeserver did for it: its effects. A crash ends it right after the n-th of them. The
// answer to a request is lost, nothing is written and nothing reaches the homeserver any
// more, until the process is started again. Every state in which a process can be killed
// is the state after some effect.
type crash struct {
	mu    sync.Mutex
	armed bool
	after int // effects
	seen  int
	died  chan struct{}
	base  http.Transport
}

var errDied = errors.New("the process ended here")

// crashing are the crashes by the path of their database.
var crashing sync.Map

// TestMain gives every connection of SQLite that belongs to a crash its hook. That must
// be said before the first one is opened. More tests run at a time than there are
// processors, because most of them wait for something, fewer under the race detector, which
// has them compute instead. Garbage is collected later.
func TestMain(m *testing.M) {
	atOnce := 6
	if info, ok := debug.ReadBuildInfo(); !ok || slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		atOnce = 2
	}
	if err := flag.Set("test.parallel", fmt.Sprint(atOnce*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	sqlite.RegisterConnectionHook(func(conn sqlite.ExecQuerierContext, dsn string) error {
		crashing.Range(func(path, c any) bool {
			if strings.Contains(dsn, path.(string)) {
				conn.(sqlite.HookRegisterer).RegisterCommitHook(c.(*crash).commit)
				return false
			}
			return true
		})
		return nil
	})
	code := m.Run()
	if err := postgres.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		code = 1
	}
	os.Exit(code)
}

// rig returns a rig whose process can end.
func (c *crash) rig(t *testing.T, hs *liar.Server) *rig {
	t.Helper()
	r := newRig(t, hs, func(o *e2ee.Options) { o.Client, o.Spread = &http.Client{Transport: c}, -1 })
	r.stop() // what was opened so far has no hook
	crashing.Store(r.path, c)
	t.Cleanup(func() {
		crashing.Delete(r.path)
		c.base.CloseIdleConnections()
	})
	r.start()
	return r
}

// arm lets the process end after so many effects from now on; never when it is 0.
func (c *crash) arm(after int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.after, c.seen, c.died = true, after, 0, make(chan struct{})
}

// disarm lets the next process live. It tells whether the last one died.
func (c *crash) disarm() (died bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
	return c.dead()
}

func (c *crash) dead() bool { return c.after > 0 && c.seen >= c.after }

// alive reports whether the process can have another effect, and counts it if it has one.
func (c *crash) alive(effect bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return true
	}
	if c.dead() {
		return false
	}
	if effect {
		if c.seen++; c.dead() {
			close(c.died)
		}
	}
	return true
}

// commit is asked before each commit; anything but 0 rolls back.
func (c *crash) commit() int32 {
	if c.alive(true) {
		return 0
	}
	return 1
}

// RoundTrip makes the requests of the process.
func (c *crash) RoundTrip(r *http.Request) (*http.Response, error) {
	effect := r.Method != http.MethodGet && !strings.HasSuffix(r.URL.Path, "/keys/query")
	if !c.alive(effect) {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, errDied
	}
	resp, err := c.base.RoundTrip(r)
	if err == nil && !c.alive(false) {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return nil, errDied
	}
	return resp, err
}

// over is when the process has died or the flow it was in has come to its end.
func (c *crash) over(t *testing.T, end func() bool) {
	t.Helper()
	await(t, "it neither ends nor dies", func() bool {
		select {
		case <-c.died:
			return true
		default:
			return end()
		}
	})
}

// everyCrash runs a flow to its end, and then once for each of its effects with a crash
// after it; what comes of it must always be the same. run arms the crash, and tells
// whether the process died and what has come of it all in the end.
func everyCrash[T comparable](t *testing.T, atLeast int, run func(t *testing.T, c *crash, after int) (died bool, outcome T)) {
	t.Helper()
	_, want := run(t, &crash{}, 0)
	for n := 1; ; n += nextPoint(t) {
		died := false
		ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
			var got T
			if died, got = run(t, &crash{}, n); got != want {
				t.Errorf("what has come of it is\n%+v, without the crash\n%+v", got, want)
			}
		})
		switch {
		case !ok:
			t.FailNow()
		case !died && n <= atLeast:
			t.Fatalf("the flow has %d effects: the test tests nothing", n-1)
		case !died:
			t.Logf("%d effects", n-1)
			return
		}
	}
}

// accountState is how an account stands, as another client would find it out: with what the
// homeserver has, and the recovery key.
type accountState struct {
	identities int  // published at any time
	storages   int  // keys of secret storage, at any time
	confirmed  bool // the device is signed by the identity
	enabled    bool
	version    string // of the backup
	keys       int    // in it, that open
}

// inspect finds out how an account stands. It fails the test when the recovery key does
// not open secret storage, when what is in there does not fit what is published, or when
// a key in the backup does not open.
func inspect(t *testing.T, hs *liar.Server, s liar.Session, recovery secret.String) accountState {
	t.Helper()
	out := accountState{
		identities: masters(t, hs, s.UserID),
		storages:   len(paths(hs.Requests(liar.Of(s.UserID, liar.Is(http.MethodPut, "account_data/m.secret_storage.key."))))),
	}
	storage := openStorage(t, hs, s, recovery)
	for _, usage := range []string{"master", "self_signing", "user_signing"} {
		key, err := pk.NewSigningFromSeed(inStorage(t, hs, s, storage, "m.cross_signing."+usage))
		if published := hs.CrossSigningKey(s.UserID, usage); err != nil || key.PublicKey().String() != published {
			t.Errorf("the %s key in secret storage is not %s, which is published: %v", usage, published, err)
		}
	}
	var query struct {
		Devices map[string]map[string]json.RawMessage `json:"device_keys"`
	}
	call(t, hs, s, http.MethodPost, "keys/query", map[string]any{"device_keys": map[string]any{s.UserID: []string{}}}, &query)
	self := id.Ed25519(hs.CrossSigningKey(s.UserID, "self_signing"))
	out.confirmed, _ = signatures.VerifySignatureJSON(query.Devices[s.UserID][s.DeviceID], id.UserID(s.UserID), self.String(), self)
	var choice struct {
		Enabled bool `json:"enabled"`
	}
	if err := json.Unmarshal(accountData(t, hs, s, "m.key_backup"), &choice); err != nil {
		t.Error(err)
	}
	out.enabled = choice.Enabled
	out.version, out.keys = openBackup(t, hs, s, inStorage(t, hs, s, storage, "m.megolm_backup.v1"))
	return out
}

// paths returns the different paths of requests.
func paths(all []*liar.Request) map[string]bool {
	out := make(map[string]bool)
	for _, r := range all {
		out[r.Path] = true
	}
	return out
}

// openStorage opens the default key of secret storage.
func openStorage(t *testing.T, hs *liar.Server, s liar.Session, recovery secret.String) *ssss.Key {
	t.Helper()
	name := defaultKey(t, hs, s)
	var meta ssss.KeyMetadata
	if err := json.Unmarshal(accountData(t, hs, s, "m.secret_storage.key."+name), &meta); err != nil {
		t.Fatalf("secret storage has no default key: %v", err)
	}
	key, err := meta.VerifyRecoveryKey(name, recovery.Reveal())
	if err != nil {
		t.Fatalf("the recovery key does not open secret storage: %v", err)
	}
	return key
}

// inStorage reads a secret.
func inStorage(t *testing.T, hs *liar.Server, s liar.Session, key *ssss.Key, name string) []byte {
	t.Helper()
	var content ssss.EncryptedAccountDataEventContent
	if err := json.Unmarshal(accountData(t, hs, s, name), &content); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	value, err := content.Decrypt(name, key)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return value
}

// keybackup.Open opens all of a key backup.
func openBackup(t *testing.T, hs *liar.Server, s liar.Session, private []byte) (version string, keys int) {
	t.Helper()
	var info struct {
		Version string `json:"version"`
		Auth    struct {
			PublicKey string `json:"public_key"`
		} `json:"auth_data"`
	}
	call(t, hs, s, http.MethodGet, "room_keys/version", nil, &info)
	key, err := backup.MegolmBackupKeyFromBytes(private)
	if err != nil || base64.RawStdEncoding.EncodeToString(key.PublicKey().Bytes()) != info.Auth.PublicKey {
		t.Errorf("the backup's key in secret storage does not belong to backup %q: %v", info.Version, err)
		return info.Version, 0
	}
	var all struct {
		Rooms map[string]struct {
			Sessions map[string]struct {
				Data backup.EncryptedSessionData[json.RawMessage] `json:"session_data"`
			} `json:"sessions"`
		} `json:"rooms"`
	}
	call(t, hs, s, http.MethodGet, "room_keys/keys?version="+info.Version, nil, &all)
	for _, room := range all.Rooms {
		for name, one := range room.Sessions {
			raw, err := one.Data.Decrypt(key)
			var data struct {
				Key string `json:"session_key"`
			}
			if err != nil || json.Unmarshal(*raw, &data) != nil {
				t.Errorf("a key in the backup does not open: %v", err)
				continue
			}
			if in, err := session.NewMegolmInboundSessionFromExport([]byte(data.Key)); err != nil || in.ID().String() != name {
				t.Errorf("a key in the backup is not what it is named after: %v", err)
				continue
			}
			keys++
		}
	}
	return info.Version, keys
}

// masters counts the different master keys that a user has uploaded.
func masters(t *testing.T, hs *liar.Server, user string) int {
	t.Helper()
	seen := make(map[string]bool)
	for _, r := range hs.Requests(liar.Of(user, liar.Is(http.MethodPost, "device_signing/upload"))) {
		var body struct {
			Master struct {
				Keys map[string]string `json:"keys"`
			} `json:"master_key"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		for key := range body.Master.Keys {
			seen[key] = true
		}
	}
	return len(seen)
}
