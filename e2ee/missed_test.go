package e2ee_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// mentionsOnly are push rules of somebody who is notified of mentions and keywords, and of
// nothing else: not of ciphertext.
var mentionsOnly = pushRules[:strings.Index(pushRules, `"underride"`)] + `"underride":[]}}`

// missed returns what the homeserver does not list, the newest first.
func (r *unreadStage) missed() (events []string) {
	r.t.Helper()
	all, err := r.dev.MissedNotifications(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, m := range all {
		if string(m.RoomID) != r.room || m.At <= 0 || m.At > r.now().UnixMilli() {
			r.t.Errorf("%+v", m)
		}
		events = append(events, fmt.Sprintf("%s read=%t", m.Event, m.Read))
	}
	return events
}

func (r *unreadStage) wantMissed(what string, events ...string) {
	r.t.Helper()
	if got := r.missed(); !slices.Equal(got, events) {
		r.t.Errorf("%s: %q, want %q", what, got, events)
	}
}

// quiet has the homeserver deliver an encrypted event of which its rules say nothing.
func (r *unreadStage) quiet(said *megolm, content string) (event string) {
	r.t.Helper()
	defer func() { r.server-- }()
	return r.hears(said, content)
}

// says has the client sync what a test says of the room.
func (r *unreadStage) says(u e2ee.SyncUpdate) {
	r.t.Helper()
	in, err := r.dev.BeginSync(r.t.Context(), r.since)
	if err != nil {
		r.t.Fatal(err)
	}
	defer in.End()
	u.Since, u.NextBatch = r.since, r.since
	if _, err := in.Commit(r.t.Context(), u); err != nil {
		r.t.Fatal(err)
	}
}

// Issue 8, Part 3: what notifies by its clear event only is known, so that it can be listed,
// also after a restart; a receipt makes it read, and a redaction, the homeserver's listing it
// after all, leaving the room, and the logout of the last device remove it.
func TestMissedNotificationsAreKnown(t *testing.T) {
	t.Parallel()
	r, _, said := newUnreadStage(t)
	r.rules = mentionsOnly
	r.again()
	r.quiet(said, `{"body":"x"}`)
	first := r.quiet(said, mentionsAlice)
	r.want("a mention", 1, 1)
	r.wantMissed("a mention", first+" read=false")
	r.again()
	r.later(1)
	second := r.quiet(said, `{"body":"the lighthouse"}`)
	r.want("a keyword", 2, 2)
	listed := []string{first, second}
	order := r.missed()
	if len(order) != 2 {
		t.Fatalf("of %q there are %q", listed, order)
	}
	r.reads(first, "")
	r.want("one is read", 1, 1)
	r.again()
	got := r.missed()
	for _, one := range []string{first + " read=true", second + " read=false"} {
		if !slices.Contains(got, one) {
			t.Errorf("after a receipt: %q", got)
		}
	}
	r.says(e2ee.SyncUpdate{
		Rooms:  []e2ee.RoomUpdate{{RoomID: id.RoomID(r.room), Section: e2ee.SectionJoin}},
		Unread: e2ee.UnreadUpdate{Rooms: []e2ee.UnreadRoom{{RoomID: id.RoomID(r.room), Redacted: []id.EventID{id.EventID(first)}}}},
	})
	r.wantMissed("one is redacted", second+" read=false")
	r.again()
	r.wantMissed("and after a restart", second+" read=false")
	if err := r.dev.NotificationsListed(t.Context(), []id.EventID{id.EventID(second), "$another"}); err != nil {
		t.Fatal(err)
	}
	r.again()
	r.wantMissed("the homeserver lists it")

	third := r.quiet(said, mentionsAlice)
	_, _ = r.sync()
	r.wantMissed("a third", third+" read=false")
	r.says(e2ee.SyncUpdate{Rooms: []e2ee.RoomUpdate{{RoomID: "!another:liar.test", Section: e2ee.SectionLeave}}})
	r.wantMissed("another room is left", third+" read=false")
	r.says(e2ee.SyncUpdate{Rooms: []e2ee.RoomUpdate{{RoomID: id.RoomID(r.room), Section: e2ee.SectionLeave}}})
	r.wantMissed("the room is left")
	r.again()
	r.wantMissed("the room is left, after a restart")

	fourth := r.quiet(said, mentionsAlice)
	_, _ = r.sync()
	r.wantMissed("a fourth", fourth+" read=false")
	row := rowOf(t, r.db, r.alice.UserID)
	r.hs.Revoke(r.alice.Token)
	if err := r.eng.Forget(t.Context(), id.UserID(r.alice.UserID), id.DeviceID(r.alice.DeviceID)); err != nil {
		t.Fatal(err)
	}
	if kept, err := r.db.Notifications(t.Context(), row); err != nil || kept != nil {
		t.Errorf("after the logout there is %d bytes: %v", len(kept), err)
	}
	r.wantMissed("after the logout")
}

// A key that comes late tells what was missed; what the homeserver counts is not missed; and
// of very many only the latest are kept.
func TestMissedNotificationsAreBounded(t *testing.T) {
	t.Parallel()
	r, bob, _ := newUnreadStage(t)
	r.rules = mentionsOnly
	r.again()
	said, give := keyed(r.stage, bob, r.room)
	late := r.quiet(said, mentionsAlice)
	r.want("it cannot be read", 0, 0)
	r.wantMissed("it cannot be read")
	give()
	await(t, "what was missed does not come", func() bool {
		_, _ = r.sync()
		return slices.Equal(r.missed(), []string{late + " read=false"})
	})
	const kept = 200
	for range 11 { // a sync has 20 events at most
		for range 20 {
			r.quiet(said, mentionsAlice)
		}
		_, _ = r.sync()
	}
	if got := r.missed(); len(got) != kept {
		t.Errorf("%d are kept", len(got))
	}
	r.again()
	if got := r.missed(); len(got) != kept {
		t.Errorf("after a restart %d are kept", len(got))
	}

	loud, _, said := newUnreadStage(t)
	loud.hears(said, mentionsAlice)
	loud.want("a mention that the homeserver counts", 1, 1)
	loud.wantMissed("a mention that the homeserver counts")
}
