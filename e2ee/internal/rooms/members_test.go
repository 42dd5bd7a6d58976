package rooms

import (
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// Membership: whose identity counts in a room. Who has left or was banned does not, so that
// leaving ends a block; who knocks has no say; who is invited counts where the history
// visibility lets them read, because then they get the keys. (The reference counts every
// invited user, and shares with them.)
func TestWhoCounts(t *testing.T) {
	t.Parallel()
	for membership, want := range map[string][4]bool{ // joined, invited, shared, world_readable
		"join": {true, true, true, true}, "invite": {false, true, true, true},
		"leave": {}, "ban": {}, "knock": {}, "": {}, "unheard_of": {},
	} {
		for i, visibility := range []string{"joined", "invited", "shared", "world_readable"} {
			members := map[id.UserID]string{"@me:x": "join", "@b:x": membership}
			rt := tableWith(t, map[id.RoomID]*room{"!r:x": {visibility: visibility, members: members}}, nil)
			to, err := rt.Recipients(t.Context(), "!r:x")
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(to.Users, "@b:x"); got != want[i] {
				t.Errorf("%q, history %s: counts %v", membership, visibility, got)
			}
		}
	}
}

// Departures: whether a membership event says that a member has left, who may have the key of
// an encrypted room (requirements 9.3, 9.4). The columns: a sync without and with a gap.
func TestDepartureTable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		was, is string
		want    [2]bool
	}{
		{"join", "leave", [2]bool{true, true}},
		{"join", "ban", [2]bool{true, true}},
		{"join", "knock", [2]bool{true, true}},
		{"join", "join", [2]bool{}}, // a name or a picture (9.8)
		{"invite", "join", [2]bool{}},
		{"invite", "leave", [2]bool{true, true}}, // history sharing (9.4)
		{"", "invite", [2]bool{}},                // was no member as far as known, and has no key
		{"join", "invite", [2]bool{false, true}}, // left and is back, in what was left out
		{"leave", "leave", [2]bool{}},
		{"leave", "ban", [2]bool{}},
		{"", "join", [2]bool{}},
	} {
		for i, limited := range []bool{false, true} {
			members := map[id.UserID]string{"@me:x": "join"}
			if tc.was != "" {
				members["@b:x"] = tc.was
			}
			told := &departures{}
			rt := tableWith(t, map[id.RoomID]*room{"!r:x": {encrypted: true, members: members}}, told)
			s := rt.Begin()
			if err := rt.applyMember(t.Context(), s, "!r:x", "@b:x", tc.is, limited); err != nil {
				t.Fatal(err)
			}
			s.ApplyToMemory()
			if got := slices.Contains(told.members, "@b:x"); got != tc.want[i] {
				t.Errorf("%q to %q, gap %v: departed %v, want %v", tc.was, tc.is, limited, got, tc.want[i])
			}
		}
	}
}

// tableWith returns what a device of @me:x knows of rooms.
func tableWith(t *testing.T, known map[id.RoomID]*room, host Host) *Table {
	t.Helper()
	env := &core.Env{Now: time.Now}
	shared, err := NewShared(env, 1)
	if err != nil {
		t.Fatal(err)
	}
	rt := New(&core.Device{Env: env, Account: &core.Account{Env: env, User: "@me:x"}}, shared, host)
	rt.known = known
	return &rt
}

// departures notes the members who have left.
type departures struct{ members []id.UserID }

func (d *departures) Departed(_ *core.Step, _ id.RoomID, user id.UserID, member bool) {
	if member {
		d.members = append(d.members, user)
	}
}

func (d *departures) DiscardOutbound(*core.Step, id.RoomID)        {}
func (d *departures) MemberMoved(*core.Step, id.RoomID, id.UserID) {}
