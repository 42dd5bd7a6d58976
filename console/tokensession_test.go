package console

import (
	"net/http"
	"testing"
)

// Attack: somebody has the access token of a client with keys of its own, or of none, and signs in to
// the console with it, to act for the devices whose keys the proxy holds. Such a token is refused. One of
// a device whose keys are here opens that device alone, as in the control API.
func TestTokenOpensItsOwnDeviceAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, token := range []string{"phones-token", "bots-token"} {
		r.wantText(r.post("/sign-in", "/sign-in/token", "access_token", token), http.StatusForbidden, "not of a device whose keys the proxy holds")
		if g := r.get(""); g.Status != http.StatusSeeOther {
			t.Errorf("%s opens the console: %d", token, g.Status)
		}
	}
	r.signInByToken()
	r.wantText(r.get(""), 200, "Signed in as @alice:hs")
	r.post("/recovery", "/acting", "device_id", "A2")
	r.get("")
	dev := r.accounts.of(alice)
	dev.set(func() {
		if dev.status.DeviceID != "A1" {
			t.Errorf("a token of A1 opens %s", dev.status.DeviceID)
		}
	})
}

// Attack: somebody has signed in with a stolen token, and goes on when its device was logged out,
// while another device of the user is still here.
func TestTokenSessionEndsWithItsDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signInByToken()
	word := r.token("/recovery")
	r.accounts.mu.Lock()
	r.accounts.held[alice] = []Held{{"A2", "IRC"}}
	r.accounts.mu.Unlock()
	if g := r.get("/recovery"); g.Status != http.StatusSeeOther {
		t.Errorf("the console is open: %d", g.Status)
	}
	if g := r.do(r.form("/recovery/show", map[string][]string{"form_token": {word}}, nil)); g.Status != http.StatusSeeOther {
		t.Errorf("a form counts: %d", g.Status)
	}
	r.wantDid()
}

func (r *rig) signInByToken() {
	r.t.Helper()
	if g := r.post("/sign-in", "/sign-in/token", "access_token", "alices-token"); g.Status != http.StatusSeeOther {
		r.t.Fatalf("%d: %s", g.Status, text(g.Body))
	}
}
