package e2e

import (
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// createRoom makes an encrypted room through the proxy.
func (c *curl) createRoom(invite ...string) string {
	c.t.Helper()
	var made struct {
		RoomID string `json:"room_id"`
	}
	c.call(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{
		"preset": "private_chat", "invite": append([]string{}, invite...),
		"initial_state": []any{map[string]any{
			"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"},
		}},
	}, &made)
	return made.RoomID
}

func (c *curl) invite(room, user string) {
	c.t.Helper()
	c.call(http.MethodPost, roomPath(room, "invite"), map[string]any{"user_id": user}, nil)
}

// awaitMember syncs until somebody's membership event of that kind has come.
func (c *curl) awaitMember(room, user, membership string) {
	c.t.Helper()
	c.until(user+" as "+membership, func() bool {
		for i := len(c.timeline[room]) - 1; i >= 0; i-- {
			e := c.timeline[room][i]
			if e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == user {
				return contains(e.Content, `"`+membership+`"`)
			}
		}
		return false
	})
}

// Invite, message, join. The invitee reads what was sent while it was only invited, however
// late it joins; the invite's 200 is enough, no sync is needed in between.
func TestInviteeReads(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, carol := element(t, hs, host, "alice"), element(t, hs, host, "carol")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))

		room := bob.createRoom(alice.UserID)
		atOnce := bob.SendText(room, "invited with the room")
		bob.invite(room, carol.UserID)
		later := bob.SendText(room, "invited later")

		alice.AwaitRoom(room, "invite")
		alice.Join(room)
		wantClean(t, alice.AwaitDecrypted(room, atOnce), "invited with the room")
		wantClean(t, alice.AwaitDecrypted(room, later), "invited later")
		afterwards := bob.SendText(room, "alice is here")
		wantClean(t, alice.AwaitDecrypted(room, afterwards), "alice is here")

		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		wantClean(t, carol.AwaitDecrypted(room, later), "invited later")
		wantClean(t, carol.AwaitDecrypted(room, afterwards), "alice is here")
	})
}

// Leave, message, rejoin. What was sent in between is not readable for who had left, in a room
// whose history is not for later members; what comes after is.
func TestWhoLeftDoesNotRead(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, carol := element(t, hs, host, "alice"), element(t, hs, host, "carol")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bob.createRoom(alice.UserID, carol.UserID)
		bob.put(roomPath(room, "state/m.room.history_visibility"), map[string]any{"history_visibility": "invited"})
		for _, peer := range []*testpeer.Client{alice, carol} {
			peer.AwaitRoom(room, "invite")
			peer.Join(room)
		}
		before := bob.SendText(room, "all three")
		wantClean(t, alice.AwaitDecrypted(room, before), "all three")

		alice.Leave(room)
		bob.awaitMember(room, alice.UserID, "leave")
		between := bob.SendText(room, "without alice")
		wantClean(t, carol.AwaitDecrypted(room, between), "without alice")

		bob.invite(room, alice.UserID)
		alice.AwaitRoom(room, "invite")
		alice.Join(room)
		after := bob.SendText(room, "with alice again")
		wantClean(t, alice.AwaitDecrypted(room, after), "with alice again")
		for _, m := range alice.Timeline(room) {
			if m.EventID == between && (m.Decrypted || m.Body != "") {
				t.Errorf("alice reads %q, sent while she was away", m.Body)
			}
		}
		if alice.Saw("without alice") {
			t.Error("the text went to alice in clear")
		}
	})
}
