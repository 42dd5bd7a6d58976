package store

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

func secretString(s string) secret.String { return secret.NewString(s) }

// TestOutboundSessionMovesForwardOnly: whoever holds an older state of a session than the
// database cannot save it, so its next index is never used twice.
func TestOutboundSessionMovesForwardOnly(t *testing.T) {
	t.Parallel()
	session := func(name string, messages uint32, made int) OutboundSession {
		return OutboundSession{RoomID: "!r", SessionID: id.SessionID(name), Pickle: []byte("p"), Messages: messages, CreatedAt: at(made)}
	}
	for _, row := range []struct {
		what         string
		stored, next OutboundSession
		want         error
	}{
		{"the next message", session("a", 4, 1), session("a", 5, 1), nil},
		{"several messages on", session("a", 4, 1), session("a", 9, 1), nil},
		{"the same state", session("a", 4, 1), session("a", 4, 1), ErrStale},
		{"an older state", session("a", 4, 1), session("a", 3, 1), ErrStale},
		{"a younger session", session("a", 4, 1), session("b", 7, 2), nil},
		{"a new session after the clock went back", session("a", 4, 9), session("b", 0, 1), nil},
		{"a new session with its first message", session("a", 4, 9), session("b", 1, 1), nil},
		{"a session that was replaced", session("b", 1, 2), session("a", 5, 1), ErrStale},
	} {
		onBoth(t, func(t *testing.T, url string) {
			db := open(t, options(t, url))
			acct, dev := device(t, db, alice, "A")
			save(t, db, acct, dev.ID, &Changes{OutboundSessions: []OutboundSession{row.stored}})
			err := db.Save(t.Context(), acct, dev.ID, &Changes{
				OutboundSessions: []OutboundSession{row.next, {RoomID: "!other", SessionID: "o", Pickle: []byte("p")}},
			})
			if !errors.Is(err, row.want) {
				t.Errorf("%s: got %v, want %v", row.what, err, row.want)
			}
			want := row.next
			if row.want != nil {
				want = row.stored
			}
			same(t, row.what, must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, "!r")), want)
			if _, err := db.OutboundSession(t.Context(), acct, dev.ID, "!other"); errors.Is(err, ErrNotFound) != (row.want != nil) {
				t.Errorf("%s: the rest of the changes: %v", row.what, err)
			}
		})
	}
}

// TestDiscardStays: a send that began before somebody left must not make the session usable again.
func TestDiscardStays(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		s := OutboundSession{RoomID: "!r", SessionID: "a", Pickle: []byte("p"), Messages: 1, CreatedAt: at(1)}
		save(t, db, acct, dev.ID, &Changes{OutboundSessions: []OutboundSession{s}})
		save(t, db, acct, dev.ID, &Changes{DiscardOutbound: []id.RoomID{"!r", "!other"}})
		s.Messages = 2
		save(t, db, acct, dev.ID, &Changes{OutboundSessions: []OutboundSession{s}})
		if !must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, "!r")).Discard {
			t.Error("the session can be used again")
		}
		fresh := OutboundSession{RoomID: "!r", SessionID: "b", Pickle: []byte("p"), CreatedAt: at(2)}
		save(t, db, acct, dev.ID, &Changes{DiscardOutbound: []id.RoomID{"!r"}, OutboundSessions: []OutboundSession{fresh}})
		if must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, "!r")).Discard {
			t.Error("a new session is discarded from the start")
		}
	})
}

// TestRoomStaysEncrypted holds requirement 20.3.
func TestRoomStaysEncrypted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		save(t, db, acct, dev.ID, &Changes{Rooms: []Room{{RoomID: "!r", Algorithm: "m.megolm.v1.aes-sha2", EncryptedSince: at(1)}}})
		save(t, db, acct, dev.ID, &Changes{Rooms: []Room{{RoomID: "!r", HistoryVisibility: "joined", EncryptedSince: at(5)}}})
		got := must[map[id.RoomID]Room](t)(db.Rooms(t.Context(), acct, dev.ID, nil))["!r"]
		same(t, "room", got, Room{RoomID: "!r", Algorithm: "m.megolm.v1.aes-sha2", HistoryVisibility: "joined", EncryptedSince: at(1)})
	})
}

// What names an event: its type, its content, and the session that it was sent in.
func TestHashSaid(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, liteURL(t)))
	seen := map[[32]byte]string{}
	for _, said := range []struct {
		session       int
		kind, content string
	}{{0, "m.room.message", "{}"}, {1, "m.room.message", "{}"}, {0, "m.sticker", "{}"}, {0, "m.room.message", "{ }"}, {0, "m.room.message{", "}"}} {
		h := db.HashSaid(said.session, said.kind, []byte(said.content))
		if other, twice := seen[h]; twice || h != db.HashSaid(said.session, said.kind, []byte(said.content)) {
			t.Errorf("%v has the hash of %q", said, other)
		}
		seen[h] = fmt.Sprint(said)
	}
}

func TestTransactionNeverChanges(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		txn := everything().Transactions[0]
		txn.Said = db.HashSaid(1, "m.room.message", []byte(`{"body":"x"}`))
		save(t, db, acct, dev.ID, &Changes{Transactions: []Transaction{txn}})
		save(t, db, acct, dev.ID, &Changes{Transactions: []Transaction{{TxnRef: txn.TxnRef, Said: [32]byte{1}, Ciphertext: json.RawMessage(`{"ciphertext":"y"}`), CreatedAt: at(99)}}})
		same(t, "transaction", must[Transaction](t)(db.Transaction(t.Context(), acct, dev.ID, txn.TxnRef)), txn)
		long := TxnRef{"!r1", "m.room.message", strings.Repeat("t", 100_000)}
		save(t, db, acct, dev.ID, &Changes{Transactions: []Transaction{{TxnRef: long, Ciphertext: txn.Ciphertext, CreatedAt: at(1)}}})
		same(t, "long ID", must[Transaction](t)(db.Transaction(t.Context(), acct, dev.ID, long)).Ciphertext, txn.Ciphertext)
	})
}

func TestPendingAndInboxAreDelivered(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		// The key may come with the event that waits for it.
		c := everything()
		c.ReadyPending = []SessionRef{ref("!r3", "m9"), ref("!none", "m9")}
		save(t, db, acct, dev.ID, c)
		same(t, "ready", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 10))), []id.EventID{"$p1", "$p0"})
		same(t, "one ready", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 1))), []id.EventID{"$p1"})
		same(t, "delivered", len(must[[]PendingEvent](t)(db.PendingDelivered(ctx, acct, dev.ID, 10))), 0)
		inbox := must[[]InboxItem](t)(db.Inbox(ctx, acct, dev.ID, 10))
		save(t, db, acct, dev.ID, &Changes{MarkPending: []id.EventID{"$p0"}, MarkInbox: []int64{inbox[0].Seq}, MarkDelivered: "s7"})
		delivered := must[[]PendingEvent](t)(db.PendingDelivered(ctx, acct, dev.ID, 10))
		same(t, "delivered", eventIDs(delivered), []id.EventID{"$p0"})
		same(t, "position", delivered[0].DeliveredAt, "s7")
		same(t, "still there", len(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 10))), 2)
		inbox = must[[]InboxItem](t)(db.Inbox(ctx, acct, dev.ID, 10))
		same(t, "inbox", []string{inbox[0].DeliveredAt, inbox[1].DeliveredAt}, []string{"s7", ""})
		save(t, db, acct, dev.ID, &Changes{DeleteInbox: []int64{inbox[0].Seq, inbox[1].Seq}, Inbox: []InboxItem{{Event: []byte("{}")}}})
		last := must[[]InboxItem](t)(db.Inbox(ctx, acct, dev.ID, 10))
		if len(last) != 1 || last[0].Seq <= inbox[1].Seq {
			t.Errorf("numbers in the inbox are used again: %d after %d", last[0].Seq, inbox[1].Seq)
		}
	})
}

// TestRulesChange: what was held back under other rules is ready, once, for every account;
// what waits for a key is not.
func TestRulesChange(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		alices, a := device(t, db, alice, "A")
		bobs, b := device(t, db, "@bob:hs", "B")
		hold := func() {
			for _, of := range []struct {
				acct *Account
				dev  int64
			}{{alices, a.ID}, {bobs, b.ID}} {
				save(t, db, of.acct, of.dev, &Changes{Pending: []PendingEvent{
					{SessionRef: ref("!r", "m1"), EventID: "$held", From: "@carol:hs", Event: []byte("{}")},
					{SessionRef: ref("!r", "m2"), EventID: "$keyless", Event: []byte("{}")},
				}})
			}
		}
		ready := func(when string, want ...id.EventID) {
			t.Helper()
			same(t, when+": alice's", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, alices, a.ID, 10))), append([]id.EventID{}, want...))
			same(t, when+": bob's", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, bobs, b.ID, 10))), append([]id.EventID{}, want...))
		}
		under := func(rules string) {
			if err := db.HeldBackUnder(ctx, rules); err != nil {
				t.Fatal(err)
			}
		}
		under("strict")
		hold()
		under("strict")
		ready("the same rules")
		under("lax")
		ready("other rules", "$held")
		hold()
		under("lax")
		ready("the same rules again")
	})
}

// TestHeldBackEventsAreReleased: what was held back because of a user's device is ready,
// for all devices of the account and no other, once more is known of that user.
func TestHeldBackEventsAreReleased(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, first := device(t, db, alice, "A")
		_, second := device(t, db, alice, "B")
		other, third := device(t, db, "@bob:hs", "A")
		save(t, db, acct, first.ID, everything())
		save(t, db, acct, second.ID, everything())
		save(t, db, other, third.ID, everything())
		ctx := t.Context()
		waiting := must[[]SessionRef](t)(db.PendingSessions(ctx, acct, first.ID, 10))
		same(t, "sessions that events wait for", waiting, []SessionRef{ref("!r3", "m9")})
		save(t, db, acct, 0, &Changes{ReadyPendingFrom: []id.UserID{"@bob:hs", "@nobody:hs"}})
		for _, dev := range []Device{first, second} {
			same(t, "released", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 10))), []id.EventID{"$p2"})
		}
		same(t, "another account's", len(must[[]PendingEvent](t)(db.Pending(ctx, other, third.ID, 10))), 0)
	})
}

// TestAllThatWasHeldBackIsReleased: for an account that another process had.
func TestAllThatWasHeldBackIsReleased(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		other, theirs := device(t, db, "@bob:hs", "A")
		save(t, db, acct, dev.ID, everything())
		save(t, db, other, theirs.ID, everything())
		ctx := t.Context()
		save(t, db, acct, 0, &Changes{ReadyWithheld: true})
		same(t, "released", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 10))), []id.EventID{"$p2"})
		same(t, "another account's", len(must[[]PendingEvent](t)(db.Pending(ctx, other, theirs.ID, 10))), 0)
	})
}

// TestPendingIsBounded: the newest events stay.
func TestPendingIsBounded(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		_, second := device(t, db, alice, "B")
		save(t, db, acct, dev.ID, everything())
		save(t, db, acct, second.ID, everything())
		ctx := t.Context()
		same(t, "none too many", must[int64](t)(db.TrimPending(ctx, acct, dev.ID, 3)), int64(0))
		same(t, "forgotten", must[int64](t)(db.TrimPending(ctx, acct, dev.ID, 1)), int64(2))
		save(t, db, acct, dev.ID, &Changes{ReadyPendingFrom: []id.UserID{"@bob:hs"}})
		same(t, "left", eventIDs(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev.ID, 10))), []id.EventID{"$p2"})
		same(t, "of the other device", must[int](t)(db.PendingCount(ctx, acct, second.ID)), 3)
	})
}

func eventIDs(all []PendingEvent) []id.EventID {
	out := make([]id.EventID, len(all))
	for i := range all {
		out[i] = all[i].EventID
	}
	return out
}

func TestBackupVersions(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		save(t, db, acct, dev.ID, everything())
		count := func(version string) int { return must[int](t)(db.CountToBackUp(ctx, acct, dev.ID, version)) }
		same(t, "version 3", count("3"), 2)
		same(t, "version 4", count("4"), 3)
		save(t, db, acct, dev.ID, &Changes{Backed: []BackedSession{{ref("!r1", "m1"), 7, at(0), "3"}}})
		same(t, "left, one of which came again after it was read for the backup", count("3"), 2)
		save(t, db, acct, dev.ID, &Changes{Backed: []BackedSession{
			{ref("!r1", "m1"), 7, at(1), "3"}, {ref("!r2", "m1"), 5, time.Time{}, "3"}, {ref("!none", "m1"), 0, at(1), "3"},
		}})
		left := must[[]InboundSession](t)(db.ToBackUp(ctx, acct, dev.ID, "3", 10))
		if len(left) != 1 || left[0].SessionRef != ref("!r2", "m1") {
			t.Errorf("left to back up: %d; a session whose better copy was uploaded is not in the backup", len(left))
		}
	})
}

func TestMarkedUsersKeepTheRestOfTheirRow(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, _ := device(t, db, alice, "A")
		bob := everything().Users[0]
		bob.Outdated = false
		carol := User{UserID: "@carol:hs", Failures: 2, RetryAt: at(1)}
		save(t, db, acct, 0, &Changes{
			Users:         []User{bob, carol},
			OutdatedUsers: []id.UserID{bob.UserID, carol.UserID, "@nobody:hs"},
		})
		bob.Outdated, bob.Failures, bob.RetryAt = true, 0, at(0)
		bob.RetryAt = User{}.RetryAt
		read := func() map[id.UserID]User {
			return must[map[id.UserID]User](t)(db.Users(t.Context(), acct, []id.UserID{bob.UserID, carol.UserID, "@nobody:hs"}))
		}
		same(t, "outdated", read(), map[id.UserID]User{bob.UserID: bob, carol.UserID: carol})
		save(t, db, acct, 0, &Changes{LeftUsers: []id.UserID{bob.UserID, "@nobody:hs"}})
		bob.Tracked = false
		same(t, "left", read()[bob.UserID], bob)
		same(t, "outdated users", len(must[[]id.UserID](t)(db.OutdatedUsers(t.Context(), acct))), 0)
	})
}

// TestOwnerIsReplacedAlone: knowing more of a key's owner must not write back a session
// that may have been replaced meanwhile.
func TestOwnerIsReplacedAlone(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		c := everything()
		save(t, db, acct, dev.ID, c)
		save(t, db, acct, dev.ID, &Changes{Owners: []SessionOwner{{ref("!r1", "m1"), []byte("known now")}, {ref("!r9", "m1"), []byte("x")}}})
		want := c.InboundSessions[0]
		want.Owner = []byte("known now")
		got := must[map[SessionRef]InboundSession](t)(db.InboundSessions(t.Context(), acct, dev.ID, []SessionRef{want.SessionRef, ref("!r9", "m1")}))
		same(t, "session", got, map[SessionRef]InboundSession{want.SessionRef: want})
	})
}

// TestHostileText: others choose device IDs, session IDs and reasons; none of them may make
// a transaction fail, or be mistaken for another.
func TestHostileText(t *testing.T) {
	t.Parallel()
	texts := []string{
		"", "\x00", "a\x00b", "\xff\xfe", "\x01", "\x0100", "'; DROP TABLE devices; --", "$1", "?", "%", "\u202e", "ÿ",
		strings.Repeat("\x00", 255), "\xed\xa0\x80", "A", "a",
	}
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		c := &Changes{}
		devices := make([]UserDevice, 0, len(texts))
		refs := make([]SessionRef, 0, len(texts))
		for _, s := range texts {
			c.UserDevices = append(c.UserDevices, UserDevice{UserID: "@b:hs", DeviceID: id.DeviceID(s), Ed25519: s, Keys: json.RawMessage(s)})
			c.Withheld = append(c.Withheld, WithheldNote{SessionRef: ref("!r", s), Code: s, Reason: s})
			c.Warnings = append(c.Warnings, Warning{ID: s, Message: s, Code: s})
			c.Secrets = append(c.Secrets, Secret{Name: s, Value: []byte(s)})
			c.Shares = append(c.Shares, Share{SessionID: "x", UserID: "@b:hs", DeviceID: id.DeviceID(s), Withheld: s})
			refs = append(refs, ref("!r", s))
		}
		save(t, db, acct, dev.ID, c)
		got := must[map[id.UserID][]UserDevice](t)(db.UserDevices(ctx, acct, []id.UserID{"@b:hs"}))["@b:hs"]
		devices = append(devices, got...)
		same(t, "devices", len(devices), len(texts))
		for _, d := range devices {
			if d.Ed25519 != string(d.DeviceID) || string(d.Keys) != string(d.DeviceID) {
				t.Errorf("device %q came back with %q and %q", d.DeviceID, d.Ed25519, d.Keys)
			}
		}
		notes := must[map[SessionRef]WithheldNote](t)(db.Withheld(ctx, acct, dev.ID, refs))
		for _, n := range c.Withheld {
			same(t, "note", notes[n.SessionRef], n)
		}
		same(t, "shares", len(must[[]Share](t)(db.Shares(ctx, acct, dev.ID, "x"))), len(texts))
		same(t, "warnings", len(must[[]Warning](t)(db.Warnings(ctx, acct))), len(texts))
		for _, s := range texts {
			same(t, "secret", string(must[Secret](t)(db.Secret(ctx, acct, s)).Value.Reveal()), s)
		}
	})
}

func TestTooLongIsRefusedNotCut(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		long := strings.Repeat("x", sqlio.MaxID+1)
		for what, c := range map[string]*Changes{
			"Olm session": {OlmSessions: []OlmSession{{SessionID: long}}},
			"Olm key":     {OlmSessions: []OlmSession{{TheirKey: long}}},
			"session":     {InboundSessions: []InboundSession{{SessionRef: ref("!r", long)}}},
			"note":        {Withheld: []WithheldNote{{SessionRef: ref("!r", long)}}},
			"device":      {UserDevices: []UserDevice{{DeviceID: id.DeviceID(long)}}},
			"outbox":      {Outbox: []OutboxItem{{TxnID: long}}},
			"pending":     {Pending: []PendingEvent{{EventID: id.EventID(long)}}},
		} {
			err := db.Save(t.Context(), acct, dev.ID, c)
			if !errors.Is(err, sqlio.ErrTooLong) || strings.Contains(err.Error(), "xxxx") {
				t.Errorf("%s: got %v, want ErrTooLong without the text", what, err)
			}
		}
		if _, err := db.Account(t.Context(), id.UserID(long)); !errors.Is(err, sqlio.ErrTooLong) {
			t.Errorf("account: got %v, want ErrTooLong", err)
		}
		got := must[map[SessionRef]InboundSession](t)(db.InboundSessions(t.Context(), acct, dev.ID, []SessionRef{ref("!r", strings.Repeat("x", 100_000))}))
		same(t, "reading what cannot be there", len(got), 0)
		// The longest that fits, in a key of three, with bytes that cannot be compressed away.
		raw := make([]byte, sqlio.MaxID*3/4)
		_, _ = rand.Read(raw)
		fits := base64.RawStdEncoding.EncodeToString(raw)
		save(t, db, acct, dev.ID, &Changes{Shares: []Share{{SessionID: id.SessionID(fits), UserID: id.UserID(fits), DeviceID: id.DeviceID(fits)}}})
	})
}
