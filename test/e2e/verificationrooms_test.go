package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testproxy"
)

// compare compares emoji that Element and a person at the proxy see, and says at both ends that they
// match.
func compare(t *testing.T, element *testpeer.Client, c *curl) {
	t.Helper()
	v := c.awaitVerification("compare")
	wantSameEmoji(t, element.AwaitVerification(map[string]any{"emoji": true}), v)
	element.ConfirmEmoji()
	c.step(v, "confirm", map[string]any{"match": true})
	c.awaitVerification("done")
	element.AwaitVerification(map[string]any{"phase": "done"})
}

// A person verifies an Element user with whom they share no room: a room for the two is made, in
// which Element is asked. Then they are asked there, while their account is in many rooms and no
// client of it syncs.
func TestVerifySomebodyNewAndBeAskedInARoom(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := loginCurl(t, proxy.URL, newAccount(t, hs, "bob"), "BOB1")
		bob.awaitInOrder()
		alice.ListenVerifications()
		v := bob.verify("verifications", map[string]any{"user_id": a.UserID})
		if v.RoomID == "" {
			t.Fatal("no room was made")
		}
		alice.AwaitRoom(v.RoomID, "invite")
		alice.Join(v.RoomID)
		// If Element saw the request before it knew bob's identity, it does not look at it again.
		alice.AwaitDevice(bob.account.UserID, "BOB1", true)
		// One that it sees after its end is open for it still, and then it takes none of the two.
		alice.Await(v.RoomID, testpeer.Where{"type": "m.room.message", "sender": bob.account.UserID})
		bob.control(http.StatusOK, http.MethodPost, "verifications/"+v.ID+"/cancel", nil)
		alice.Await(v.RoomID, testpeer.Where{"type": "m.key.verification.cancel"})
		if again := bob.verify("verifications", map[string]any{"user_id": a.UserID}); again.RoomID != v.RoomID {
			t.Errorf("asked again in %q", again.RoomID)
		}
		alice.AwaitVerification(map[string]any{"phase": "requested"})
		alice.AcceptVerification()
		bob.awaitVerification("ready")
		alice.StartEmoji()
		compare(t, alice, bob)
		alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})

		for range 21 {
			bob.createRoom()
		}
		proxy.Kill() // rooms are counted once an hour
		if err := proxy.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		bob.status()
		alice.RequestVerification(bob.account.UserID, v.RoomID, "")
		asked := bob.awaitAsked(v.RoomID)
		bob.step(asked, "accept", nil)
		alice.AwaitVerification(map[string]any{"phase": "ready"})
		bob.step(asked, "emoji", nil)
		compare(t, alice, bob)
	})
}

// awaitAsked waits for a request in a room. It comes after the proxy's own sync, which waits at the
// homeserver for as long as a client's would.
func (c *curl) awaitAsked(room string) (asked verification) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*testpeer.Deadline)
	defer cancel()
	err := testproc.Await(ctx, func(ctx context.Context) error {
		var all struct {
			Verifications []verification `json:"verifications"`
		}
		if err := c.http.Call(ctx, http.MethodGet, control+"verifications", nil, &all); err != nil {
			return err
		}
		for _, asked = range all.Verifications {
			if asked.Incoming && asked.RoomID == room && asked.State == "requested" {
				return nil
			}
		}
		return fmt.Errorf("there are %+v", all.Verifications)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return asked
}
