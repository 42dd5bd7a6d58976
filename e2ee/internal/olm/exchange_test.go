package olm

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// end is one side of an exchange: a device with its account and its sessions.
type end struct {
	t   *testing.T
	own *Account
	all *Sessions
	dev *trustcache.Device
	now time.Time
}

func newEnd(t *testing.T, user id.UserID, device id.DeviceID) *end {
	t.Helper()
	e := &end{t: t, own: newTestAccount(t), now: time.Unix(1_800_000_000, 0).UTC()}
	e.load(nil)
	e.dev = &trustcache.Device{UserID: user, DeviceID: device, Ed25519: e.own.Ed25519, Curve25519: e.own.Curve25519}
	return e
}

// load has the sessions that are stored, and no others.
func (e *end) load(rows map[string][]store.OlmSession) {
	e.t.Helper()
	all, err := LoadSessions(rows)
	if err != nil {
		e.t.Fatal(err)
	}
	e.all = all
}

// stored returns what is stored of the sessions, once.
func (e *end) stored() store.Changes {
	var ch store.Changes
	e.all.Collect(&ch, &Steps{})
	return ch
}

// oneTimeKey makes a key that others begin a session with.
func (e *end) oneTimeKey() id.Curve25519 {
	e.t.Helper()
	if err := e.own.MakeOneTimeKeys(1); err != nil {
		e.t.Fatal(err)
	}
	return e.own.OTKeys[0].Key.B64Encoded()
}

// seal encrypts a text for another end, with a claimed key if there is one.
func (e *end) seal(to *end, text string, claimed id.Curve25519) json.RawMessage {
	e.t.Helper()
	frame := NewFrame(e.own, e.dev.UserID, nil, "m.dummy", strictjson.Object{{Name: "text", Value: strictjson.Quote(text)}}.Encode())
	ref := store.DeviceRef{UserID: to.dev.UserID, DeviceID: to.dev.DeviceID}
	sealed, _, without := e.all.SealAll(e.own, frame, []*trustcache.Device{to.dev}, map[store.DeviceRef]id.Curve25519{ref: claimed}, e.now)
	if len(sealed) != 1 || len(without) != 0 {
		e.t.Fatalf("%d are sealed, %d are not", len(sealed), len(without))
	}
	return sealed[0].Text()
}

// open decrypts what came and checks what it says.
func (e *end) open(from *end, content json.RawMessage) (text string, made *session.OlmSession, err error) {
	e.t.Helper()
	ev, err := ParseEvent(content)
	if err != nil {
		return "", nil, err
	}
	plain, made, err := e.all.Decrypt(e.own, ev, e.now)
	if err != nil {
		return "", nil, err
	}
	got, err := OpenEnvelope(plain, from.dev.UserID, ev.SenderKey, e.dev.UserID, e.own.Ed25519)
	if err != nil {
		e.t.Fatal(err)
	}
	var said struct{ Text string }
	if err := json.Unmarshal(got.Content, &said); err != nil {
		e.t.Fatal(err)
	}
	if got.Type != "m.dummy" || got.Keys.Ed25519 != from.own.Ed25519 || ev.SenderKey != from.own.Curve25519 {
		e.t.Errorf("the envelope is %+v", got.Envelope)
	}
	return said.Text, made, nil
}

// reads is open for what must be read with a session that is there.
func (e *end) reads(from *end, content json.RawMessage, want string) {
	e.t.Helper()
	if text, made, err := e.open(from, content); err != nil || text != want || made != nil {
		e.t.Errorf("read is %q, %v, a new session: %v; want %q", text, err, made != nil, want)
	}
}

// begins is open for what must begin a session, which is kept.
func (e *end) begins(from *end, content json.RawMessage, want string) {
	e.t.Helper()
	text, made, err := e.open(from, content)
	if err != nil || text != want || made == nil {
		e.t.Fatalf("read is %q, %v, a new session: %v; want %q", text, err, made != nil, want)
	}
	e.all.BeganBy(from.own.Curve25519, made, e.now)
	e.own.RemoveOneTimeKey(made.BobOneTimeKey)
}

// Two devices talk, from the first message over a claimed key to a session that both have
// stored and loaded again (requirements 6.2 to 6.6). What has encrypted or decrypted must be
// stored, and nothing else.
func TestTwoDevicesTalk(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB")
	first := alice.seal(bob, "one", bob.oneTimeKey())
	bob.begins(alice, first, "one")
	if !slices.Equal(bob.all.Begun, []id.Curve25519{alice.own.Curve25519}) || len(bob.own.OTKeys) != 0 {
		t.Errorf("%v began a session, %d one-time keys are left", bob.all.Begun, len(bob.own.OTKeys))
	}
	// The second message comes before anything was answered: it still begins, but with the
	// session that is there.
	bob.reads(alice, alice.seal(bob, "two", ""), "two")
	alice.reads(bob, bob.seal(alice, "three", ""), "three")
	for _, e := range []*end{alice, bob} {
		ch := e.stored()
		if len(ch.OlmSessions) != 1 || len(ch.DeleteOlmSessions) != 0 {
			t.Fatalf("%s: %d are stored, %d deleted", e.dev.DeviceID, len(ch.OlmSessions), len(ch.DeleteOlmSessions))
		}
		row := ch.OlmSessions[0]
		e.load(map[string][]store.OlmSession{row.TheirKey: {row}})
		if ch := e.stored(); len(ch.OlmSessions) != 0 {
			t.Errorf("%s: %d are stored again, without use", e.dev.DeviceID, len(ch.OlmSessions))
		}
	}
	four := alice.seal(bob, "four", "")
	if ch := alice.stored(); len(ch.OlmSessions) != 1 {
		t.Errorf("after a message was encrypted %d are stored", len(ch.OlmSessions))
	}
	bob.now = bob.now.Add(time.Hour)
	bob.reads(alice, four, "four")
	if ch := bob.stored(); len(ch.OlmSessions) != 1 || !ch.OlmSessions[0].LastReceivedAt.Equal(bob.now) || ch.OlmSessions[0].CreatedAt.Equal(bob.now) {
		t.Errorf("after a message was decrypted stored are %v", ch.OlmSessions)
	}
	alice.reads(bob, bob.seal(alice, "five", ""), "five")
}

// Requirement 6.13: a message that cannot be decrypted changes nothing, whatever is wrong
// with it, and what comes after it is read.
func TestUnreadableMessagesChangeNothing(t *testing.T) {
	t.Parallel()
	alice, bob, mallory := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB"), newEnd(t, "@mallory:x", "M")
	bob.begins(alice, alice.seal(bob, "one", bob.oneTimeKey()), "one")
	alice.reads(bob, bob.seal(alice, "two", ""), "two")
	bob.reads(alice, alice.seal(bob, "three", ""), "three")
	preKey := mallory.seal(bob, "hello", bob.oneTimeKey())
	good := alice.seal(bob, "four", "")
	change := func(content json.RawMessage, f func(ev map[string]any, msg map[string]any)) json.RawMessage {
		var ev map[string]any
		if err := json.Unmarshal(content, &ev); err != nil {
			t.Fatal(err)
		}
		msg, _ := ev["ciphertext"].(map[string]any)[bob.own.Curve25519.String()].(map[string]any)
		f(ev, msg)
		raw, err := json.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	flip := func(at int) func(ev, msg map[string]any) {
		return func(_, msg map[string]any) {
			body := fmt.Append(nil, msg["body"])
			i := (at + len(body)) % len(body)
			if body[i] == 'A' {
				body[i] = 'B'
			} else {
				body[i] = 'A'
			}
			msg["body"] = string(body)
		}
	}
	type member = map[string]any
	for _, tc := range []struct {
		name    string
		content json.RawMessage
		want    error
	}{
		{"a changed MAC", change(good, flip(-3)), ErrNoSession},
		{"a changed ratchet key", change(good, flip(10)), ErrNoSession},
		{"no body", change(good, func(_, msg member) { msg["body"] = "" }), ErrNoSession},
		{"a body that is no base64", change(good, func(_, msg member) { msg["body"] = "!!" }), ErrNoSession},
		{"half a body", change(good, func(_, msg member) { msg["body"] = fmt.Sprint(msg["body"])[:40] }), ErrNoSession},
		{"of a device without a session", change(good, func(ev, _ member) { ev["sender_key"] = mallory.own.Curve25519 }), ErrNoSession},
		{"a message that says it begins a session", change(good, func(_, msg member) { msg["type"] = 0 }), ErrNoSession},
		{"a beginning that says it is none", change(preKey, func(_, msg member) { msg["type"] = 1 }), ErrNoSession},
		{"a changed beginning", change(preKey, flip(-3)), ErrNoSession},
		{"a beginning in another's name", change(preKey, func(ev, _ member) { ev["sender_key"] = alice.own.Curve25519 }), ErrNoSession},
		{"a beginning with a key that was never there", mallory.seal(newEnd(t, "@bob:x", "BOB"), "hello", alice.oneTimeKey()), errNotForUs},
		{"a type that nobody knows", change(good, func(_, msg member) { msg["type"] = 2 }), strictjson.ErrMalformed},
		{"a type below all", change(good, func(_, msg member) { msg["type"] = -1 }), strictjson.ErrMalformed},
		{"another algorithm", change(good, func(ev, _ member) { ev["algorithm"] = wire.AlgorithmMegolm }), errNotForUs},
		{"for another device", change(good, func(ev, msg member) { ev["ciphertext"] = member{"other": msg} }), errNotForUs},
		{"for nobody", change(good, func(ev, _ member) { delete(ev, "ciphertext") }), errNotForUs},
		{"of nobody", change(good, func(ev, _ member) { delete(ev, "sender_key") }), strictjson.ErrMalformed},
	} {
		before := bob.stored()
		pickle := string(bob.own.Pickled().Reveal())
		if text, made, err := bob.open(alice, tc.content); made != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: %q, %v, want %v", tc.name, text, err, tc.want)
		}
		after := bob.stored()
		if string(bob.own.Pickled().Reveal()) != pickle {
			t.Errorf("%s: it changed the account", tc.name)
		}
		if len(before.OlmSessions) != 1 || len(after.OlmSessions) != 1 || string(before.OlmSessions[0].Pickle.Reveal()) != string(after.OlmSessions[0].Pickle.Reveal()) {
			t.Errorf("%s: it changed the session", tc.name)
		}
	}
	bob.reads(alice, good, "four")
	if _, _, err := bob.open(alice, good); !errors.Is(err, ErrNoSession) {
		t.Errorf("the same message is read twice: %v", err)
	}
	bob.begins(mallory, preKey, "hello")
}

// What is sealed for many devices (requirements 6.4, 6.5): with the session that received
// last, with a new one for who has none and whose key was claimed, and not at all for the
// others. One bad key does not stop the rest.
func TestSealForMany(t *testing.T) {
	t.Parallel()
	alice := newEnd(t, "@alice:x", "ALICE")
	var devices []*trustcache.Device
	ends := make(map[string]*end)
	claimed := make(map[store.DeviceRef]id.Curve25519)
	add := func(name string, key func(e *end) id.Curve25519) *end {
		e := newEnd(t, "@bob:x", id.DeviceID(name))
		ends[name] = e
		devices = append(devices, e.dev)
		if k := key(e); k != "" {
			claimed[store.DeviceRef{UserID: "@bob:x", DeviceID: e.dev.DeviceID}] = k
		}
		return e
	}
	known := add("KNOWN", func(*end) id.Curve25519 { return "" })
	known.begins(alice, alice.seal(known, "before", known.oneTimeKey()), "before")
	for i := range 9 { // more than one worker has them
		add(fmt.Sprint("NEW", i), (*end).oneTimeKey)
	}
	add("NOKEY", func(*end) id.Curve25519 { return "" })
	add("BADKEY", func(*end) id.Curve25519 { return "no key" })
	add("ZERO", func(*end) id.Curve25519 { return id.Curve25519(strings.Repeat("A", 43)) })
	alice.stored()
	frame := NewFrame(alice.own, "@alice:x", nil, "m.dummy", json.RawMessage(`{"text":"to all"}`))
	sealed, renewed, without := alice.all.SealAll(alice.own, frame, devices, claimed, alice.now)

	var left []string
	for _, dev := range without {
		left = append(left, dev.DeviceID.String())
	}
	slices.Sort(left)
	if want := []string{"BADKEY", "NOKEY", "ZERO"}; !slices.Equal(left, want) {
		t.Errorf("without a message are %v, want %v", left, want)
	}
	if len(sealed) != 10 || len(renewed) != 9 || slices.Contains(renewed, store.DeviceRef{UserID: "@bob:x", DeviceID: "KNOWN"}) {
		t.Errorf("%d are sealed, new sessions have %v", len(sealed), renewed)
	}
	if ch := alice.stored(); len(ch.OlmSessions) != 10 {
		t.Errorf("%d sessions are stored", len(ch.OlmSessions))
	}
	for _, msg := range sealed {
		name := msg.To.DeviceID.String()
		for other, e := range ends {
			text, _, err := e.open(alice, msg.Text())
			if (err == nil && text == "to all") != (other == name) {
				t.Errorf("what is for %s is read by %s: %q, %v", name, other, text, err)
			}
		}
	}
}

// What the plaintext of a message looks like, member by member (Client-Server API,
// "m.olm.v1.curve25519-aes-sha2"), with the device keys as the homeserver shows them, byte for
// byte; and what is outside of it.
func TestSealedMessage(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, `@al"ice:x`, "ALICE"), newEnd(t, `@b"ob:x`, "BOB")
	for shown, member := range map[string]string{"": "", `{"n": 1.0}`: `,"sender_device_keys":{"n": 1.0}`} {
		var keys json.RawMessage
		if shown != "" {
			keys = json.RawMessage(shown)
		}
		sess, err := alice.own.NewOutbound(bob.own.Curve25519, bob.oneTimeKey())
		if err != nil {
			t.Fatal(err)
		}
		content, err := NewFrame(alice.own, `@al"ice:x`, keys, "m.room_key", json.RawMessage(`{"a": 1.0}`)).Seal(sess, bob.dev)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := ParseEvent(content)
		if err != nil {
			t.Fatal(err)
		}
		plain, made, err := bob.all.Decrypt(bob.own, ev, bob.now)
		if err != nil || made == nil {
			t.Fatal(err)
		}
		want := `{"type":"m.room_key","content":{"a": 1.0},"sender":"@al\"ice:x","keys":{"ed25519":"` + alice.own.Ed25519.String() + `"}` + member +
			`,"recipient":"@b\"ob:x","recipient_keys":{"ed25519":"` + bob.own.Ed25519.String() + `"}}`
		if string(plain) != want {
			t.Errorf("sealed is\n%s\nwant\n%s", plain, want)
		}
		body := ev.Ciphertext[bob.own.Curve25519].Body
		outside := `{"algorithm":"m.olm.v1.curve25519-aes-sha2","ciphertext":{"` + bob.own.Curve25519.String() + `":{"type":0,"body":"` + body +
			`"}},"sender_key":"` + alice.own.Curve25519.String() + `"}`
		if string(content) != outside {
			t.Errorf("outside is\n%s\nwant\n%s", content, outside)
		}
	}
}

// Rows that are damaged are an error; the device must not go on as if it had no sessions, and
// begin new ones with everybody.
func TestDamagedSessions(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB")
	alice.seal(bob, "one", bob.oneTimeKey())
	row := alice.stored().OlmSessions[0]
	for name, pickle := range map[string][]byte{
		"nothing": nil, "no base64": []byte("!!!!"), "half": row.Pickle.Reveal()[:20], "an account": alice.own.Pickled().Reveal(),
	} {
		broken := row
		broken.Pickle = pickle
		if got, err := LoadSessions(map[string][]store.OlmSession{row.TheirKey: {row, broken}}); err == nil || got != nil {
			t.Errorf("%s: loaded", name)
		}
	}
}
