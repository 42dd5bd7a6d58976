package interceptors

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// Before an invitation goes on, by its endpoint or as a membership event, the invitee is given
// the history of the room (requirement 17.8). Nothing else shares it, and nobody but a device
// whose keys the proxy holds.
func TestHistoryIsSharedBeforeAnInvitation(t *testing.T) {
	t.Parallel()
	inRoom := map[string]string{"roomId": encryptedRoom.String()}
	other, shared := `{"user_id":"`+bob.String()+`"}`, []string{bob.String() + " " + encryptedRoom.String()}
	post := func(handler, path, body string) call {
		return call{handler: handler, method: http.MethodPost, pattern: "/rooms/{roomId}/" + path, params: inRoom, body: body}
	}
	member := func(user id.UserID, membership, query string) call {
		c := stateCall(encryptedRoom, typeMember, user.String(), `{"membership":"`+membership+`"}`)
		c.query = query
		return c
	}
	for name, tt := range map[string]struct {
		mode e2ee.Mode
		call call
		want []string
	}{
		"an invitation":                       {e2ee.ModeProxied, post(Invite, "invite", other), shared},
		"an invitation as state":              {e2ee.ModeProxied, member(bob, "invite", ""), shared},
		"a delayed one":                       {e2ee.ModeProxied, member(bob, "invite", "org.matrix.msc4140.delay=9"), nil},
		"a join as state":                     {e2ee.ModeProxied, member(alice, "join", ""), nil},
		"an invitation by e-mail":             {e2ee.ModeProxied, post(Invite, "invite", `{"medium":"email","address":"b@x","id_server":"x"}`), nil},
		"an invitation of nobody":             {e2ee.ModeProxied, post(Invite, "invite", `{"user_id":"bob"}`), nil},
		"of oneself":                          {e2ee.ModeProxied, post(Invite, "invite", `{"user_id":"`+alice.String()+`"}`), nil},
		"a ban":                               {e2ee.ModeProxied, post(Ban, "ban", other), nil},
		"a device with keys of its own":       {e2ee.ModeForeign, post(Invite, "invite", other), nil},
		"such a device's invitation as state": {e2ee.ModeForeign, member(bob, "invite", ""), nil},
		"a token without a device":            {e2ee.ModeNone, post(Invite, "invite", other), nil},
	} {
		for _, status := range []int{200, 403} {
			w := newWorld(t, tt.mode)
			w.up.versions = `{"unstable_features":{"org.matrix.msc4140":true}}`
			var before []string
			w.up.respond = func(seen) (int, string) {
				w.dev.mu.Lock()
				defer w.dev.mu.Unlock()
				before = slices.Clone(w.dev.shared)
				return status, `{}`
			}
			rec, err := w.do(tt.call)
			if err != nil || rec.Code != status {
				t.Errorf("%s: %d, %v", name, rec.Code, err)
			}
			if diff := cmp.Diff(tt.want, before); diff != "" {
				t.Errorf("%s, which was answered %d: history was shared before (-want +got):\n%s", name, status, diff)
			}
		}
	}
}
