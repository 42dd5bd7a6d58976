package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// History that Element shares when it invites somebody, and history that it is given by the
// proxy: what was said before is read, marked as shared by somebody else. What was said while later members were not to read it stays closed to them.
func TestSharedHistory(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		bob := loginCurl(t, proxy.URL, newAccount(t, hs, "bob"), "BOB")
		bob.awaitInOrder()

		theirs := alice.CreateRoom(testpeer.Room{Encrypted: true})
		before := alice.SendText(theirs, "said before bob came")
		alice.SetState(theirs, "m.room.history_visibility", "", map[string]any{"history_visibility": "joined"})
		closed := alice.SendText(theirs, "not for later members")
		alice.SetState(theirs, "m.room.history_visibility", "", map[string]any{"history_visibility": "shared"})
		alice.SendText(theirs, "open again")
		alice.Invite(theirs, bob.account.UserID)
		bob.AwaitRoom(theirs, "invite")
		bob.Join(theirs)
		got := map[string]string{}
		bob.until("the history that alice shared", func() bool {
			var page struct {
				Chunk []json.RawMessage `json:"chunk"`
			}
			bob.call(http.MethodGet, roomPath(theirs, "messages")+"?dir=b&limit=100", nil, &page)
			got = eventsOf(t, page.Chunk)
			return strings.Contains(got[before], `"decrypted":true`)
		})
		for _, want := range []string{"said before bob came", `"decrypted":true`, `"color":"grey"`, `"source":"bundle"`, `"shared_by":"` + alice.UserID + `"`, "shared this message"} {
			if !strings.Contains(got[before], want) {
				t.Errorf("bob is shown %s, without %s", got[before], want)
			}
		}
		if strings.Contains(got[closed], "not for later members") {
			t.Errorf("bob is shown %s", got[closed])
		}
		// Dendrite does not show what was said while others were not to read it.
		if got[closed] != "" && !strings.Contains(got[closed], `"withheld_code":"m.history_not_shared"`) {
			t.Errorf("bob is shown %s", got[closed])
		}

		ours := bob.createRoom()
		first := bob.SendText(ours, "said before alice came")
		bob.invite(ours, alice.UserID)
		alice.AwaitRoom(ours, "invite")
		alice.Join(ours)
		read := alice.AwaitDecrypted(ours, first)
		if read.Body != "said before alice came" || read.Shield == nil || read.Shield.Colour == "NONE" || read.Shield.Colour == "RED" {
			t.Errorf("alice reads %+v with %+v", read, read.Shield)
		}
		after := bob.SendText(ours, "said to alice")
		wantClean(t, alice.AwaitDecrypted(ours, after), "said to alice")
	})
}
