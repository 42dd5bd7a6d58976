package ownbackup

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// keys/restore answered 500 "there is more to do" to a client that asked for it while its
// device was being set up: each look at the backup found that its owner had changed meanwhile.
// It is looked again until that is over; what then is there is the answer. If it never is,
// that ends too.
func TestBackupIsReadableWhileItsOwnerIsSetUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		changes int32 // how many looks find that something has changed
		want    error
	}{
		"nothing changes":               {0, core.ErrNoBackup},
		"it changes within a round":     {1, core.ErrNoBackup},
		"it changes for a whole round":  {uploadLooks, core.ErrNoBackup},
		"it changes for several rounds": {3*uploadLooks - 1, core.ErrNoBackup},
		"it never ends":                 {1 << 20, core.ErrMoreToDo},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var acct Account
			var looks atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/room_keys/version") && looks.Add(1) <= tc.changes {
					acct.Forget()
				}
				w.WriteHeader(http.StatusNotFound)
				_, _ = w.Write([]byte(`{"errcode":"M_NOT_FOUND","error":"there is none"}`))
			}))
			t.Cleanup(server.Close)
			base, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			env := &core.Env{Store: &store.DB{}, Homeserver: wire.NewHomeserver(base, server.Client(), time.Minute), Now: time.Now}
			account := &core.Account{Env: env, User: "@me:x"}
			acct = NewAccount(account)
			dev := &core.Device{Env: env, Account: account}
			dev.Record.Token = secret.NewString("token")
			b := New(dev, &acct, nil, nil)
			if err := b.CheckReadable(t.Context()); !errors.Is(err, tc.want) {
				t.Errorf("after %d looks: %v, want %v", looks.Load(), err, tc.want)
			}
			if most := int32(uploadLooks * (1 + fetchAgain)); looks.Load() > most {
				t.Errorf("it looked %d times", looks.Load())
			}
		})
	}
}
