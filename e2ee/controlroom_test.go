package e2ee_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// inControl returns a person whose clients are shown a control room.
func inControl(t *testing.T, notices bool) *person {
	t.Helper()
	hs := liar.New(t)
	p := &person{t: t, hs: hs, Session: hs.Login("alice", "FIRST")}
	p.rig = newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(user id.UserID) e2ee.AccountSettings {
			return e2ee.AccountSettings{ControlRoom: user == id.UserID(p.UserID), NoNotices: !notices}
		}
	})
	p.dev = p.rig.device(p.Session)
	ready(t, p.dev)
	return p
}

// said returns the texts in an update of the room.
func said(t *testing.T, u *e2ee.ControlUpdate) []string {
	t.Helper()
	var all []string
	if u == nil {
		return nil
	}
	for _, raw := range u.Timeline {
		var ev struct {
			Sender  string `json:"sender"`
			Content struct {
				Body       string `json:"body"`
				Membership string `json:"membership"`
			} `json:"content"`
		}
		if err := json.Unmarshal(raw, &ev); err != nil {
			t.Fatal(err)
		}
		all = append(all, ev.Content.Body+ev.Content.Membership)
	}
	return all
}

// A client gets the room with its first sync, and each message once: again if it does not
// continue from the answer that had it, also after a restart; another device gets it whole.
func TestControlRoomIsShownOncePerDevice(t *testing.T) {
	t.Parallel()
	alice := inControl(t, true)
	room := func() e2ee.ControlRoom { return alice.dev.ControlRoom() }
	extras, since := alice.sync("")
	first := extras.Control
	if first == nil || !first.Whole || len(first.State) < 8 || len(first.Timeline) != 1 || !strings.Contains(said(t, first)[0], "Write help") {
		t.Fatalf("the first sync has %+v", first)
	}
	want := func(when string, texts ...string) {
		t.Helper()
		extras, next := alice.sync(since)
		if got := said(t, extras.Control); strings.Join(got, "|") != strings.Join(texts, "|") {
			t.Errorf("%s: %q, want %q", when, got, texts)
		}
		since = next
	}
	want("nothing new")
	one, err := room().Tell(t.Context(), e2ee.ControlText("one"))
	if err != nil {
		t.Fatal(err)
	}
	before := since
	want("told", "one")
	since = before
	want("asked for again", "one")
	alice.restart()
	want("continued after a restart")
	if _, err := room().Tell(t.Context(), e2ee.ControlText("two")); err != nil {
		t.Fatal(err)
	}
	for _, progress := range []string{"one: 10 %", "one: 20 %"} {
		if err := room().Change(t.Context(), one, e2ee.ControlText(progress)); err != nil {
			t.Fatal(err)
		}
	}
	want("changed twice", "two", "* one: 20 %")
	mine := e2ee.ControlLine{ID: e2ee.ControlEventOf(id.UserID(alice.UserID), "FIRST", "txn"), Txn: "txn", Content: json.RawMessage(`{"msgtype":"m.text","body":"help"}`)}
	for _, wantFresh := range []bool{true, false} {
		if fresh, err := room().Said(t.Context(), mine); err != nil || fresh != wantFresh {
			t.Errorf("said: fresh %v, %v", fresh, err)
		}
	}
	want("said", "help")

	second := &person{t: t, hs: alice.hs, rig: alice.rig, Session: alice.hs.Login("alice", "SECOND")}
	second.dev = second.rig.device(second.Session)
	extras, _ = second.sync("")
	if got := said(t, extras.Control); len(got) != 4 || got[1] != "one: 20 %" || got[3] != "help" {
		t.Errorf("another device: %q", got)
	}
	if strings.Contains(string(extras.Control.Timeline[3]), "txn") || !strings.Contains(string(mustEvent(t, room(), mine.ID)), `"transaction_id":"txn"`) {
		t.Error("the transaction ID is for the device that sent it, and for no other")
	}
}

func mustEvent(t *testing.T, room e2ee.ControlRoom, event id.EventID) json.RawMessage {
	t.Helper()
	view, err := room.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return view.Find(event)
}

// A room that was left is not shown, nobody writes in it, and a warning opens it again, with
// the warning in it, once.
func TestControlRoomComesBackWithAWarning(t *testing.T) {
	t.Parallel()
	alice := inControl(t, true)
	extras, since := alice.sync("")
	if extras.Control == nil {
		t.Fatal("there is no room")
	}
	room := alice.dev.ControlRoom()
	if err := room.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	extras, since = alice.sync(since)
	if u := extras.Control; u == nil || !u.Leave || len(u.Timeline) != 1 || said(t, u)[0] != "leave" {
		t.Fatalf("left: %+v", u)
	}
	if extras, since = alice.sync(since); extras.Control != nil {
		t.Errorf("after it was left: %+v", extras.Control)
	}
	if extras, _ := alice.sync(""); extras.Control != nil {
		t.Errorf("from nothing, after it was left: %+v", extras.Control)
	}
	if _, err := room.Said(t.Context(), e2ee.ControlLine{ID: "$x"}); !errors.Is(err, e2ee.ErrControlRoomLeft) {
		t.Errorf("said in a room that was left: %v", err)
	}
	newPuppet(t, alice.hs, "alice", "STRAY")
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["device_not_signed"].ID != "" })
	extras, since = alice.sync(since)
	u := extras.Control
	if u == nil || u.Leave || !u.Whole || !strings.Contains(strings.Join(said(t, u), ""), "STRAY") || u.Unread() != 2 {
		t.Fatalf("with a warning: %q, %d unread", said(t, u), u.Unread())
	}
	if extras, since = alice.sync(since); extras.Control != nil {
		t.Errorf("told again: %+v", extras.Control)
	}
	if err := room.MarkRead(t.Context(), u.Lines[len(u.Lines)-1].ID); err != nil {
		t.Fatal(err)
	}
	if extras, _ = alice.sync(since); extras.Control == nil || len(extras.Control.Ephemeral) != 1 || extras.Control.Unread() != 0 {
		t.Errorf("read: %+v", extras.Control)
	}
}

// A recovery key was told in a room in which nobody says anything any more, and whose user never
// wrote that it is saved. Somebody who gets at the account, or at the database, days later finds
// it there. After 24 hours nobody is shown it, whether they read back, sync or begin anew, and
// the proxy deletes it with nobody looking.
func TestToldSecretsEndInAQuietRoom(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(p *person, since string) string{
		"upkeep": func(p *person, _ string) string {
			p.dev.Maintain(t.Context())
			return ""
		},
		"a client's sync": func(p *person, since string) string {
			extras, _ := p.sync(since)
			return strings.Join(said(t, extras.Control), "")
		},
	} {
		alice := inControl(t, true)
		_, since := alice.sync("")
		event, err := alice.dev.ControlRoom().TellOnce(t.Context(), e2ee.ControlText("SECRET"))
		if err != nil {
			t.Fatal(err)
		}
		extras, since := alice.sync(since)
		alice.rig.later(23 * time.Hour)
		alice.dev.Maintain(t.Context())
		if told := said(t, extras.Control); len(told) != 1 || told[0] != "SECRET" || !strings.Contains(string(mustEvent(t, alice.dev.ControlRoom(), event)), "SECRET") {
			t.Errorf("%s: before its time: %q", name, told)
		}
		alice.rig.later(2 * time.Hour)
		if got := string(mustEvent(t, alice.dev.ControlRoom(), event)); strings.Contains(got, "SECRET") || !strings.Contains(got, "not shown again") {
			t.Errorf("%s: read back: %s", name, got)
		}
		if got := end(alice, since); strings.Contains(got, "SECRET") {
			t.Errorf("%s: %s", name, got)
		}
		if stored := storedControl(t, alice); strings.Contains(stored, "SECRET") || !strings.Contains(stored, "not shown again") {
			t.Errorf("%s: it is still stored", name)
		}
		if extras, _ := alice.sync(""); strings.Contains(strings.Join(said(t, extras.Control), ""), "SECRET") {
			t.Errorf("%s: a client that begins anew is shown it", name)
		}
	}
}

// storedControl returns what the database has of a person's room.
func storedControl(t *testing.T, p *person) string {
	t.Helper()
	acct, err := p.rig.db.Account(t.Context(), id.UserID(p.UserID))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := p.rig.db.ControlRoom(t.Context(), acct)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw.Reveal())
}

// There is no room for accounts whose notices are off, and none that others see.
func TestNoControlRoom(t *testing.T) {
	t.Parallel()
	alice := inControl(t, false)
	extras, _ := alice.sync("")
	if extras.Control != nil || alice.dev.ControlRoom().On() {
		t.Error("there is a room although notices are off")
	}
	if _, err := alice.dev.ControlRoom().View(t.Context()); !errors.Is(err, e2ee.ErrNoControlRoom) {
		t.Errorf("a room that there is not: %v", err)
	}
	if e2ee.ControlRoomOf("@a:x") == e2ee.ControlRoomOf("@b:x") || !e2ee.IsControlRoom(string(e2ee.ControlRoomOf("@a:x"))) || e2ee.IsControlRoom("!a:x") {
		t.Error("the names of rooms are not what they should be")
	}
}
