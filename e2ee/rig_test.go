package e2ee_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testdb"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// rig is a proxy's engine with its database, in front of a homeserver in this process.
type rig struct {
	t    *testing.T
	hs   *liar.Server
	path string
	opts func(*e2ee.Options)
	data func(*store.Options)
	db   *store.DB
	eng  *e2ee.Engine

	mu    sync.Mutex
	ahead time.Duration
}

// newRig starts an engine on an empty database. change may be nil.
func newRig(t *testing.T, hs *liar.Server, change func(*e2ee.Options)) *rig {
	t.Helper()
	return newRigOn(t, hs, nil, change)
}

// newRigOn is newRig with a database that is opened in another way.
func newRigOn(t *testing.T, hs *liar.Server, data func(*store.Options), change func(*e2ee.Options)) *rig {
	t.Helper()
	empty, err := noData()
	if err != nil {
		t.Fatal(err)
	}
	return newRigWith(t, hs, empty, data, change)
}

// newRigWith is newRigOn with a database that was made before.
func newRigWith(t *testing.T, hs *liar.Server, made testdb.Snapshot, data func(*store.Options), change func(*e2ee.Options)) *rig {
	t.Helper()
	r := &rig{t: t, hs: hs, path: filepath.Join(testproc.FastDir(t), "e2ee.db"), opts: change, data: data}
	if err := made.Put(r.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stop)
	r.start()
	if why := r.db.Restored(); why != "" {
		t.Fatalf("the copied database was taken for a restored one: %s", why)
	}
	return r
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Add(r.ahead)
}

func (r *rig) start() {
	r.t.Helper()
	// Each connection reads the schema when it is opened, which costs more than all it then does.
	data := store.Options{URL: secret.NewString("sqlite:" + r.path), MasterKeys: testKeys(r.t), MaxConns: 2, Audit: true}
	if r.data != nil {
		r.data(&data)
	}
	db, err := store.Open(context.Background(), data)
	if err != nil {
		r.t.Fatal(err)
	}
	base, err := url.Parse(r.hs.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	o := e2ee.Options{
		Store: db, Homeserver: base, Client: &http.Client{}, Now: r.now, OwnSyncAfter: time.Millisecond, OneTimeKeys: keysKept,
		Undecryptable: e2ee.UndecryptableEvent, PolicyVersion: func() string { return "policy of the test" },
		Log: zerolog.New(zerolog.NewTestWriter(r.t)).Level(zerolog.WarnLevel),
		Policy: func() trustcache.Policy {
			return trustcache.Policy{Unproven: trustcache.UnprovenShow, InClear: trustcache.InClearMark}
		},
	}
	if r.opts != nil {
		r.opts(&o)
	}
	eng, err := e2ee.New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := eng.Start(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.db, r.eng = db, eng
}

func (r *rig) stop() {
	if r.eng == nil {
		return
	}
	if err := r.eng.Close(context.Background()); err != nil {
		r.t.Error(err)
	}
	// Whatever a test did, the log that the proxy has written is in order.
	if _, err := audit.Verify(context.Background(), r.db.AuditLog(), r.db.AuditSigner(), nil); err != nil {
		r.t.Error(err)
	}
	if err := r.db.Close(); err != nil {
		r.t.Error(err)
	}
	r.eng, r.db = nil, nil
}

func (r *rig) restart() { r.stop(); r.start() }

// device returns the device of a session, publishing its keys at once.
func (r *rig) device(s liar.Session) *e2ee.Device {
	r.t.Helper()
	d, err := r.eng.Device(context.Background(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
	if err != nil {
		r.t.Fatal(err)
	}
	d.PublishWithin(0)
	return d
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := testproc.Await(ctx, func(context.Context) error {
		if holds() {
			return nil
		}
		return errNotYet
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func status(t *testing.T, d *e2ee.Device) e2ee.Status {
	t.Helper()
	s, err := d.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inOrder reports whether a device is signed, backed up and recoverable.
func inOrder(s e2ee.Status) bool {
	return s.Identity.Ours && s.Identity.DeviceSigned && s.SecretStorage.Complete && s.Backup.Trusted && s.Backup.Readable
}

// settle waits until a device has set itself up, and has heard what came of that: each of
// its own changes has it look again.
func settle(t *testing.T, d *e2ee.Device) {
	t.Helper()
	await(t, "the device does not settle", d.Settled)
	if d.SyncNow(t.Context()) == nil {
		await(t, "the device does not settle again", d.Settled)
	}
}

// ready waits until a device is signed, backed up and recoverable.
func ready(t *testing.T, d *e2ee.Device) {
	t.Helper()
	await(t, "the device does not get in order", func() bool { return inOrder(status(t, d)) })
}

func problems(s e2ee.Status) map[string]bool {
	out := make(map[string]bool)
	for _, p := range s.Problems {
		out[p.Code] = true
	}
	return out
}

func warningCodes(t *testing.T, d *e2ee.Device) map[string]e2ee.Warning {
	t.Helper()
	all, err := d.Warnings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]e2ee.Warning)
	for _, w := range all {
		out[w.Code] = w
	}
	return out
}

// call makes a request of a client of its own.
func call(t *testing.T, hs *liar.Server, s liar.Session, method, path string, body any, result any) int {
	t.Helper()
	code, err := try(hs, s, method, path, body, result)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func try(hs *liar.Server, s liar.Session, method, path string, body any, result any) (int, error) {
	cli := &http.Client{}
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(method, hs.URL+"/_matrix/client/v3/"+path, readerOf(raw, body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.Token)
	resp, err := cli.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if result != nil && resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(result); err != nil {
			return 0, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return resp.StatusCode, nil
}

func readerOf(raw []byte, body any) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(raw)
}

// accountData reads and writes account data as the user's other client would.
func accountData(t *testing.T, hs *liar.Server, s liar.Session, name string) json.RawMessage {
	t.Helper()
	var raw json.RawMessage
	call(t, hs, s, http.MethodGet, "user/"+url.PathEscape(s.UserID)+"/account_data/"+url.PathEscape(name), nil, &raw)
	return raw
}

func setAccountData(t *testing.T, hs *liar.Server, s liar.Session, name string, value any) {
	t.Helper()
	call(t, hs, s, http.MethodPut, "user/"+url.PathEscape(s.UserID)+"/account_data/"+url.PathEscape(name), value, nil)
}

func idRoom(room string) id.RoomID { return id.RoomID(room) }

func idUser(user string) id.UserID { return id.UserID(user) }

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
