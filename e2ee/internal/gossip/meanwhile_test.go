package gossip

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// meanwhile is a host that looks for missing secrets while something else happens.
type meanwhile struct {
	Host
	happens func()
}

func (meanwhile) IsSigned() bool { return true }
func (meanwhile) OutboxFilled()  {}
func (meanwhile) KickLocked()    {}
func (meanwhile) SecretsCame()   {}

func (h *meanwhile) MissingSecrets(context.Context, *trustcache.User) ([]string, error) {
	h.happens()
	return []string{identity.SecretBackup}, nil
}

// A backup key that comes, or is compared with the backup, while it is looked for is not
// asked for again: the request would be open for a day, and the others answer it.
func TestBackupKeyThatComesMeanwhile(t *testing.T) {
	t.Parallel()
	key, err := store.NewMasterKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{URL: secret.NewString("sqlite:" + filepath.Join(t.TempDir(), "db")), MasterKeys: store.MasterKeys{Current: key}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	own := &trustcache.User{
		UserID: "@alice:x", Own: true, Knowledge: trustcache.KnowledgeFresh,
		Pin: trustcache.Pin{Current: "M", PinnedMaster: "M", Verified: true, WasVerified: true},
		Devices: []trustcache.Device{{
			UserID: "@alice:x", DeviceID: "OTHER", Ed25519: "ed", Curve25519: "curve", Signed: true,
			Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
		}},
	}
	for name, tc := range map[string]struct {
		before, comes, compared, asks bool
	}{
		"nothing happens":                          {asks: true},
		"it comes":                                 {comes: true},
		"it comes and is compared":                 {comes: true, compared: true},
		"it came, and is being compared":           {before: true},
		"it came, and the comparison ends at once": {before: true, compared: true},
	} {
		acct, err := db.Account(t.Context(), id.UserID("@"+name+":x"))
		if err != nil {
			t.Fatal(err)
		}
		dev, err := db.CreateDevice(t.Context(), acct, store.Device{DeviceID: "MINE"})
		if err != nil {
			t.Fatal(err)
		}
		env := &core.Env{Store: db, Now: nowAt(1000), RoomsStored: func([]store.Room) {}}
		host := &meanwhile{}
		x := New(&core.Device{
			Env: env, Account: &core.Account{Env: env, User: own.UserID, Row: acct},
			Self: core.Self{ID: "MINE", RowID: dev.ID, Ed25519: "mine"},
		}, host)
		received := store.Secret{Name: identity.SecretBackupReceived, Value: secret.Bytes("key"), CreatedAt: env.Now()}
		save := func(ch *store.Changes) {
			if err := x.Save(t.Context(), ch); err != nil {
				t.Fatal(err)
			}
		}
		if tc.before {
			save(&store.Changes{Secrets: []store.Secret{received}})
		}
		host.happens = func() {
			x.Mu.Lock()
			defer x.Mu.Unlock()
			if tc.comes {
				save(&store.Changes{Secrets: []store.Secret{received}})
				in := x.Receive()
				in.answered = []answeredAsk{{&secretAsk{name: identity.SecretBackup}, "OTHER"}}
				in.dropAnsweredAsks()
			}
			if tc.compared {
				save(&store.Changes{DeleteSecrets: []string{identity.SecretBackupReceived}})
			}
		}
		if err := x.WantSecrets(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		if asks := x.secretAsks[identity.SecretBackup] != nil; asks != tc.asks {
			t.Errorf("%s: asks %v", name, asks)
		}
	}
}
