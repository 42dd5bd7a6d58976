package roomkeys

import (
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// When a session may not be used for the next message (requirements 9.1 to 9.6, 9.8, 17.2).
// The limits themselves are in TestRotationLimits, departures in TestDepartureTable.
func TestMustRotate(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	bob := store.DeviceRef{UserID: "@bob:x", DeviceID: "B"}
	mallory := store.DeviceRef{UserID: "@mallory:x", DeviceID: "M"}
	device := func(ref store.DeviceRef, key id.Curve25519) *trustcache.Device {
		return &trustcache.Device{UserID: ref.UserID, DeviceID: ref.DeviceID, Curve25519: key}
	}
	base := func() (*outboundSession, *store.Room, *Recipients) {
		return &outboundSession{
				row:      store.OutboundSession{CreatedAt: now.Add(-time.Minute), Messages: 1},
				settings: sessionSettings{Shareable: true, Period: time.Hour, Messages: 100},
				shares: map[store.DeviceRef]store.Share{
					bob:     {UserID: bob.UserID, DeviceID: bob.DeviceID, Curve25519: "bobkey"},
					mallory: {UserID: mallory.UserID, DeviceID: mallory.DeviceID, Curve25519: "mkey", Withheld: "m.unverified"},
				},
			},
			&store.Room{RotationPeriod: time.Hour, RotationMessages: 100},
			&Recipients{Give: map[store.DeviceRef]*trustcache.Device{bob: device(bob, "bobkey")}}
	}
	for _, tc := range []struct {
		name   string
		change func(o *outboundSession, r *store.Room, who *Recipients) (visibility string)
		want   bool
	}{
		{"nothing changed", func(*outboundSession, *store.Room, *Recipients) string { return "shared" }, false},
		{"shared became world readable: same side of the boundary", func(*outboundSession, *store.Room, *Recipients) string { return "world_readable" }, false},
		{"9.5 visibility crossed the boundary", func(*outboundSession, *store.Room, *Recipients) string { return "joined" }, true},
		{"9.1 too old", func(o *outboundSession, _ *store.Room, _ *Recipients) string {
			o.row.CreatedAt = now.Add(-time.Hour)
			return "shared"
		}, true},
		{"the clock went back", func(o *outboundSession, _ *store.Room, _ *Recipients) string {
			o.row.CreatedAt = now.Add(2 * time.Hour)
			return "shared"
		}, true},
		{"9.2 one message left", func(o *outboundSession, _ *store.Room, _ *Recipients) string { o.row.Messages = 99; return "shared" }, false},
		{"9.2 used up", func(o *outboundSession, _ *store.Room, _ *Recipients) string { o.row.Messages = 100; return "shared" }, true},
		{"9.6 the room's period changed", func(_ *outboundSession, r *store.Room, _ *Recipients) string {
			r.RotationPeriod = 2 * time.Hour
			return "shared"
		}, true},
		{"9.6 the room's number of messages changed", func(_ *outboundSession, r *store.Room, _ *Recipients) string {
			r.RotationMessages = 200
			return "shared"
		}, true},
		{"9.3 discarded by a departure", func(o *outboundSession, _ *store.Room, _ *Recipients) string { o.row.Discard = true; return "shared" }, true},
		{"9.3 who has it is gone: the user left, or the device was deleted", func(_ *outboundSession, _ *store.Room, who *Recipients) string { clear(who.Give); return "shared" }, true},
		{"9.6 who has it lost its signature", func(_ *outboundSession, _ *store.Room, who *Recipients) string {
			clear(who.Give)
			who.Withhold = map[store.DeviceRef]Withheld{bob: {Device: device(bob, "bobkey"), Code: "m.unverified"}}
			return "shared"
		}, true},
		{"9.6 who has it is distrusted now", func(_ *outboundSession, _ *store.Room, who *Recipients) string {
			clear(who.Give)
			who.Withhold = map[store.DeviceRef]Withheld{bob: {Device: device(bob, "bobkey"), Code: "m.blacklisted"}}
			return "shared"
		}, true},
		{"9.6 who was only told why not is told another reason", func(_ *outboundSession, _ *store.Room, who *Recipients) string {
			who.Withhold = map[store.DeviceRef]Withheld{mallory: {Device: device(mallory, "mkey"), Code: "m.blacklisted"}}
			return "shared"
		}, false},
		{"9.6 the device ID has another key now", func(_ *outboundSession, _ *store.Room, who *Recipients) string {
			who.Give[bob] = device(bob, "other")
			return "shared"
		}, true},
		{"9.6 who was only told why not has gone", func(o *outboundSession, _ *store.Room, _ *Recipients) string { return "shared" }, false},
		{"9.8 a new device", func(_ *outboundSession, _ *store.Room, who *Recipients) string {
			who.Give[mallory] = device(mallory, "mkey")
			return "shared"
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, r, who := base()
			visibility := tc.change(o, r, who)
			if got := o.mustRotate(*r, now, visibility, who); got != tc.want {
				t.Errorf("rotate: %v", got)
			}
		})
	}
}

// Who leaves a room may have its key if they were a member, or were given it in another way:
// then it is not used again (requirements 9.3, 9.4), nor is one that is about to be shared.
func TestSessionAfterDepartures(t *testing.T) {
	t.Parallel()
	shares := map[store.DeviceRef]store.Share{
		{UserID: "@given:x", DeviceID: "A"}: {}, {UserID: "@told:x", DeviceID: "A"}: {Withheld: "m.unverified"},
	}
	for _, tc := range []struct {
		user   id.UserID
		member bool
		want   bool
	}{
		{"@given:x", true, true}, {"@given:x", false, true},
		{"@told:x", true, true}, {"@told:x", false, false},
		{"@other:x", true, true}, {"@other:x", false, false},
	} {
		o := NewOutbound(&core.Device{Env: &core.Env{Now: time.Now}}, nil, nil, nil, nil)
		o.sessions = map[id.RoomID]*outboundSession{"!r:x": {shares: shares}}
		o.fresh["!r:x"] = &outboundSession{}
		s := o.Begin()
		o.Departed(s, "!r:x", tc.user, tc.member)
		o.Departed(s, "!r:x", tc.user, tc.member)
		s.ApplyToMemory()
		if n := len(s.Changes.DiscardOutbound); n > 1 || (n == 1) != tc.want || o.sessions["!r:x"].row.Discard != tc.want || o.fresh["!r:x"].row.Discard != tc.want {
			t.Errorf("%s, a member %v: discarded %d times, want %v", tc.user, tc.member, n, tc.want)
		}
	}
}
