package e2ee_test

import (
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// ownKeys publishes device keys as a client with encryption of its own does.
func ownKeys(t *testing.T, hs *liar.Server, s liar.Session) {
	t.Helper()
	code := call(t, hs, s, http.MethodPost, "keys/upload", map[string]any{"device_keys": map[string]any{
		"user_id": s.UserID, "device_id": s.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys":       map[string]string{"ed25519:" + s.DeviceID: "ZWQ", "curve25519:" + s.DeviceID: "Y3U"},
		"signatures": map[string]any{},
	}}, nil)
	if code != http.StatusOK {
		t.Fatalf("upload keys: %d", code)
	}
}

// modeOf returns the mode of a session's device.
func (r *rig) modeOf(s liar.Session) e2ee.Mode {
	r.t.Helper()
	d, err := r.eng.Device(r.t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
	if err != nil {
		r.t.Fatal(err)
	}
	return d.Mode()
}

// Attack vector: a device with keys of its own is logged out where the proxy does not see
// it. Its ID is used again, by a client that has no keys and sends clear text, which the
// proxy would pass for a device with keys.
//
// Expected: what is known of a device does not outlive its session. The homeserver is
// asked once for each new token, and not for every request.
func TestDeviceWithOwnKeysUsedAgain(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	first := hs.Login("bob", "BOT")
	ownKeys(t, hs, first)
	for range 3 {
		if got := r.modeOf(first); got != e2ee.ModeForeign {
			t.Fatalf("with keys of its own: %v", got)
		}
	}
	// The same device logs in again: its keys are still there.
	second := hs.Login("bob", "BOT")
	for range 3 {
		if got := r.modeOf(second); got != e2ee.ModeForeign {
			t.Fatalf("the same device with another token: %v", got)
		}
	}
	r.restart()
	if got := r.modeOf(second); got != e2ee.ModeForeign {
		t.Fatalf("after a restart: %v", got)
	}
	if n := len(hs.Requests(liar.Is(http.MethodPost, "keys/query"))); n != 2 {
		t.Errorf("the homeserver was asked %d times for two tokens", n)
	}
	if code := call(t, hs, second, http.MethodPost, "logout", map[string]any{}, nil); code != http.StatusOK {
		t.Fatalf("logout: %d", code)
	}
	plain := hs.Login("bob", "BOT")
	if got := r.modeOf(plain); got != e2ee.ModeProxied {
		t.Fatalf("a new device under the old ID: %v", got)
	}
	ready(t, r.device(plain))
}

// A device with keys of its own whose session ends is forgotten like any other.
func TestDeviceWithOwnKeysIsForgotten(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	s := hs.Login("bob", "BOT")
	ownKeys(t, hs, s)
	r.modeOf(s)
	user := id.UserID(s.UserID)
	count := func() int {
		row, err := r.db.LookupAccount(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		devices, err := r.db.Devices(t.Context(), row)
		if err != nil {
			t.Fatal(err)
		}
		return len(devices)
	}
	for _, end := range []struct {
		token string
		soft  bool
		want  int
	}{{"another", false, 1}, {s.Token, false, 1}, {s.Token, true, 1}, {s.Token, false, 0}} {
		if end.want == 0 { // before that, the homeserver knows the token still
			hs.Revoke(s.Token)
		} else {
			r.modeOf(s)
		}
		if err := r.eng.UnknownToken(t.Context(), user, id.DeviceID(s.DeviceID), secret.NewString(end.token), end.soft); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != end.want {
			t.Errorf("after the end of %q (soft %v) there are %d devices, want %d", end.token, end.soft, got, end.want)
		}
	}
}

// Attack vector (51): an account is closed, and somebody else registers its user ID.
//
// Expected: the new owner finds nothing of the old one: no recovery key, no identity.
func TestClosedAccount(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	old := r.device(hs.Login("bob", "BOT"))
	ready(t, old)
	oldKey, err := old.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	oldStatus := status(t, old)
	row, err := r.db.LookupAccount(t.Context(), oldStatus.UserID)
	if err != nil {
		t.Fatal(err)
	}
	hs.CloseAccount("bob")
	if err := r.eng.ForgetAccount(t.Context(), oldStatus.UserID); err != nil {
		t.Fatal(err)
	}
	r.eng.Recall(row)
	if err := r.eng.ForgetAccount(t.Context(), oldStatus.UserID); err != nil {
		t.Errorf("once more: %v", err)
	}
	heir := r.device(hs.Login("bob", "BOT"))
	if key, err := heir.RecoveryKey(t.Context()); err == nil && key == oldKey {
		t.Error("the new owner gets the old owner's recovery key")
	}
	ready(t, heir)
	got := status(t, heir)
	if got.Identity.MasterKey == oldStatus.Identity.MasterKey || got.Keys == oldStatus.Keys {
		t.Error("the new owner has keys of the old one")
	}
}

// Attack T7 (a device ID that is used again): a device is logged out and its ID
// given to the next login at once, before anybody asked the homeserver for the user's
// devices. A living device never changes its keys; this one is not the same.
//
// Expected: the new device gets in order.
func TestOwnDeviceIDUsedAgainAtOnce(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, nil)
	first := hs.Login("bob", "BOB")
	ready(t, r.device(first))
	var said [2]id.Ed25519
	for i := range said {
		said[i] = status(t, r.device(first)).Keys.Ed25519
		// Nothing is asked between the end of the one and the keys of the other.
		if code := call(t, hs, first, http.MethodPost, "logout", map[string]any{}, nil); code != http.StatusOK {
			t.Fatalf("logout: %d", code)
		}
		if err := r.eng.Forget(t.Context(), id.UserID(first.UserID), id.DeviceID(first.DeviceID)); err != nil {
			t.Fatal(err)
		}
		first = hs.Login("bob", "BOB")
		ready(t, r.device(first))
	}
	if said[0] == said[1] {
		t.Error("the new device has the old keys")
	}
}
