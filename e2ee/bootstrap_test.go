package e2ee_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/crypto/utils"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// A fresh account reaches "signed, backed up, recoverable" with no human step, and the
// recovery key that was made lets a second device recover (requirements 1.2 to 1.6).
func TestBootstrapAndRecover(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newRig(t, hs, nil).device(hs.Login("alice", "FIRST"))
	ready(t, first)
	if s := status(t, first); len(s.Problems) > 0 || len(s.Warnings) > 0 || !s.Backup.Enabled {
		t.Errorf("status after the bootstrap: %+v", s)
	}
	key, err := first.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
	settle(t, second)
	if got := problems(status(t, second)); !got["device_not_signed"] {
		t.Errorf("problems before recovery: %v", got)
	}
	if err := second.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	if s := status(t, second); !inOrder(s) || len(s.Problems) > 0 {
		t.Errorf("status after the recovery: %+v", s)
	}
	var enabled struct {
		Enabled bool `json:"enabled"`
	}
	if err := json.Unmarshal(accountData(t, hs, hs.Login("alice", "FIRST"), "m.key_backup"), &enabled); err != nil || !enabled.Enabled {
		t.Errorf("m.key_backup is not set: %v", err)
	}
}

// A wrong key changes nothing, and says what is wrong.
func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	ready(t, newRig(t, hs, nil).device(hs.Login("alice", "FIRST")))
	r := newRig(t, hs, nil)
	second := r.device(hs.Login("alice", "SECOND"))
	settle(t, second)
	before, err := second.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wrong := secret.NewString(utils.EncodeBase58RecoveryKey(make([]byte, 32)))
	for name, tt := range map[string]struct {
		with e2ee.Recovery
		want error
	}{
		"another key":   {e2ee.Recovery{Key: wrong}, e2ee.ErrWrongRecoveryKey},
		"no key":        {e2ee.Recovery{Key: secret.NewString("EsTk not a key")}, e2ee.ErrWrongRecoveryKey},
		"no passphrase": {e2ee.Recovery{Passphrase: secret.NewString("open sesame")}, e2ee.ErrNoPassphrase},
	} {
		wantErr(t, name, second.Recover(t.Context(), tt.with), tt.want)
	}
	after, err := second.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != len(after) || status(t, second).Identity.DeviceSigned {
		t.Errorf("a refused recovery changed something: %d secrets, then %d", len(before), len(after))
	}
}

// While the proxy sets a device up by itself, nobody is asked to do it: status says that it
// is not ready, and nothing of what will be in order in a moment.
func TestStatusWhileSettingUp(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	release := make(chan struct{})
	hs.Intercept(liar.Is(http.MethodPost, "keys/device_signing/upload"), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		<-release
		return next()
	})
	d := r.device(hs.Login("bob", "BOB"))
	await(t, "the identity is on its way", func() bool {
		return len(hs.Requests(liar.Is(http.MethodPost, "keys/device_signing/upload"))) > 0
	})
	if got := status(t, d).Problems; len(got) != 1 || got[0].Code != "setting_up" || got[0].Hint == "" {
		t.Errorf("problems: %+v", got)
	}
	close(release)
	ready(t, d)
	settle(t, d)
	if got := status(t, d).Problems; len(got) != 0 {
		t.Errorf("problems: %+v", got)
	}
}
