package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// town is a homeserver with as many users as are wanted, each with one device, which all
// have the same keys: making 10,000 of them would take longer than what is measured. It
// keeps syncs that may wait until they end, and has nothing to say.
type town struct {
	tb   testing.TB
	url  *url.URL
	user *identity
	home *peer

	mu     sync.Mutex
	synced map[int]bool // users that have synced
	parked []net.Conn
}

func townUser(i int) string { return fmt.Sprintf("@user%d:town.test", i) }

func newTown(tb testing.TB) *town {
	tb.Helper()
	user := newIdentity(tb, "")
	t := &town{tb: tb, user: user, home: user.newPeer("DEVICE"), synced: make(map[int]bool)}
	if err := t.home.acc.GenOneTimeKeys(50); err != nil {
		tb.Fatal(err)
	}
	if err := t.home.acc.GenFallbackKey(); err != nil {
		tb.Fatal(err)
	}
	t.home.acc.MarkKeysAsPublished()
	h := httptest.NewServer(t)
	tb.Cleanup(func() {
		t.release()
		h.CloseClientConnections()
		h.Close()
	})
	var err error
	if t.url, err = url.Parse(h.URL); err != nil {
		tb.Fatal(err)
	}
	return t
}

// addDevices puts the devices of users into a database, as they are after some use.
func (t *town) addDevices(db *store.DB, users int) {
	t.tb.Helper()
	pickle := t.home.acc.PickleLibOlm()
	meta := marshal(t.tb, obj{"passed_on": public(t.user.self)})
	next := make(chan int)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := range next {
				acct, err := db.Account(context.Background(), id.UserID(townUser(i)))
				if err == nil {
					_, err = db.CreateDevice(context.Background(), acct, store.Device{
						DeviceID: "DEVICE", State: store.DeviceOurs, KeysUploaded: true, SyncPosition: "s0",
						Ed25519: t.home.ed25519.String(), Curve25519: t.home.curve25519.String(), Olm: pickle,
						FallbackChangedAt: time.Now(), Meta: meta, Token: secret.NewString("town-" + strconv.Itoa(i)),
					})
				}
				if err != nil {
					t.tb.Error(err)
				}
			}
		})
	}
	for i := range users {
		next <- i
	}
	close(next)
	all.Wait()
}

func (t *town) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer town-")
	i, _ := strconv.Atoi(token)
	switch path := r.URL.Path; {
	case path == "/_matrix/client/versions":
		text([]byte(`{"versions":["v1.18"]}`))(w, r)
	case strings.HasSuffix(path, "/account/whoami"):
		text(marshal(t.tb, obj{"user_id": townUser(i), "device_id": "DEVICE"}))(w, r)
	case strings.HasSuffix(path, "/keys/query"):
		t.query(w, r, townUser(i))
	case strings.HasSuffix(path, "/state/m.room.create") || strings.HasSuffix(path, "/state/m.room.create/"):
		_, _ = w.Write([]byte(`{"room_version":"11"}`))
	case strings.HasSuffix(path, "/sync"):
		t.sync(w, r, i)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errcode":"M_NOT_FOUND","error":"Not found."}`))
	}
}

func (t *town) query(w http.ResponseWriter, r *http.Request, user string) {
	identity := *t.user
	identity.user = user
	home := *t.home
	home.identity = &identity
	text(marshal(t.tb, obj{
		"device_keys":       obj{user: obj{home.device: home.deviceKeys()}},
		"master_keys":       obj{user: identity.masterKey()},
		"self_signing_keys": obj{user: identity.selfSigningKey()},
	}))(w, r)
}

// sync answers at once, or keeps the bare connection of a sync that may wait, which costs
// next to nothing here.
func (t *town) sync(w http.ResponseWriter, r *http.Request, user int) {
	if q := r.URL.Query(); q.Get("since") == "s1" && q.Get("timeout") != "0" {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.tb.Error(err)
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.parked = append(t.parked, conn)
		return
	}
	text([]byte(`{"next_batch":"s1","device_one_time_keys_count":{"signed_curve25519":50},"device_unused_fallback_key_types":["signed_curve25519"]}`))(w, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.synced[user] = true
}

// seen returns how many users have synced.
func (t *town) seen() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.synced)
}

// waiting returns how many syncs wait.
func (t *town) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.parked)
}

// release ends the syncs that wait, and forgets who has synced.
func (t *town) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, conn := range t.parked {
		_ = conn.Close()
	}
	t.parked, t.synced = nil, make(map[int]bool)
}
