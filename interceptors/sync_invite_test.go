package interceptors_test

import (
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
)

// Who invited the own user is told with the invitation: the sender of the own membership event
// in the stripped state, and nothing else in it (requirement 20.4).
func TestWhoInvites(t *testing.T) {
	t.Parallel()
	member := func(sender, user, membership string) string {
		return `{"type":"m.room.member","sender":"` + sender + `","state_key":"` + user + `","content":{"membership":"` + membership + `"}}`
	}
	const own = "@me:example.org"
	for name, tt := range map[string]struct{ section, state, want string }{
		"invited":         {"invite", member("@bob:hs", "@bob:hs", "join") + "," + member("@bob:hs", own, "invite"), "@bob:hs"},
		"somebody else":   {"invite", member("@bob:hs", "@carol:hs", "invite"), ""},
		"not invited":     {"invite", member("@bob:hs", own, "join"), ""},
		"another section": {"knock", member("@bob:hs", own, "invite"), ""},
	} {
		body := `{"next_batch":"s2","rooms":{"` + tt.section + `":{"!r:hs":{"invite_state":{"events":[` + tt.state + `]}}}}}`
		w := newSyncWorld(t, body, interceptors.SyncOptions{})
		if _, err := w.sync(t, "since=s1"); err != nil {
			t.Fatal(err)
		}
		rooms := w.dev.committed[0].Rooms
		if len(rooms) != 1 || rooms[0].Inviter != id.UserID(tt.want) || len(rooms[0].Changes) != 0 {
			t.Errorf("%s: the engine is told %+v", name, rooms)
		}
	}
}
