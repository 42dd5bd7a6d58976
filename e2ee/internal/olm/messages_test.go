package olm

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// What comes as an encrypted to-device message, and is read alike by everybody or not at all:
// a Curve25519 key has other spellings of the same bytes, by which a message could be told to
// be another's.
func TestParseEvent(t *testing.T) {
	t.Parallel()
	key := newTestAccount(t).Curve25519
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", key[42])
	other := key[:42] + id.Curve25519("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[last|1]) // two bits that are not read
	event := func(key id.Curve25519) string {
		return `{"algorithm":"m.olm.v1.curve25519-aes-sha2","sender_key":"` + key.String() + `","ciphertext":{"to":{"type":1,"body":"b"}}}`
	}
	good, err := ParseEvent(json.RawMessage(event(key)))
	if err != nil || good.SenderKey != key || good.Ciphertext["to"].Type != 1 || good.Ciphertext["to"].Body != "b" {
		t.Errorf("%+v, %v", good, err)
	}
	for name, content := range map[string]string{
		"another spelling of the key": event(other),
		"a key with padding":          event(key + "="),
		"a key that is none":          event("key"),
		"no key":                      `{"algorithm":"a","ciphertext":{}}`,
		"a name twice":                `{"sender_key":"` + key.String() + `",` + event(key)[1:],
		"a name in capitals":          strings.Replace(event(key), "sender_key", "Sender_Key", 1),
		"a type that is a text":       strings.Replace(event(key), `"type":1`, `"type":"1"`, 1),
		"a type with a fraction":      strings.Replace(event(key), `"type":1`, `"type":1.5`, 1),
		"a ciphertext that is a text": `{"sender_key":"` + key.String() + `","ciphertext":"b"}`,
		"a list":                      `[]`,
		"nothing":                     ``,
	} {
		if got, err := ParseEvent(json.RawMessage(content)); !errors.Is(err, strictjson.ErrMalformed) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Attack: a homeserver delivers a message once more, with everything changed that no MAC is
// over: the key that it was begun with, the spelling of its base64, its other members.
//
// Expected: it is the same message (requirement 6.9); another message, sender or recipient is
// not.
func TestDigest(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB")
	oneTime := bob.oneTimeKey()
	first := alice.seal(bob, "one", oneTime)
	next := alice.seal(bob, "two", "")
	bob.begins(alice, first, "one")
	later := bob.seal(alice, "three", "")
	of := func(content json.RawMessage, to *end, change func(s string) string) [32]byte {
		t.Helper()
		s := string(content)
		if change != nil {
			if s = change(s); s == string(content) {
				t.Fatal("nothing is changed")
			}
		}
		ev, err := ParseEvent(json.RawMessage(s))
		if err != nil {
			t.Fatal(err)
		}
		return ev.Digest(to.own.Curve25519)
	}
	body := func(content json.RawMessage, to *end) string {
		ev, err := ParseEvent(content)
		if err != nil {
			t.Fatal(err)
		}
		return ev.Ciphertext[to.own.Curve25519].Body
	}
	// The outer half of a message that begins a session: its fields may come in any order and
	// with more behind them.
	outer := func(s string) string {
		was := body(first, bob)
		return strings.Replace(s, was, respelled(t, was), 1)
	}
	trailing := func(s string) string { // unread bits of the last letter
		was := body(later, alice)
		if len(was)%4 == 0 {
			return strings.Replace(s, `"algorithm":`, `"x":1,"algorithm":`, 1)
		}
		end := was[len(was)-1]
		const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		return strings.Replace(s, was+`"`, was[:len(was)-1]+string(letters[strings.IndexByte(letters, end)^1])+`"`, 1)
	}
	if of(first, bob, nil) != of(first, bob, outer) {
		t.Error("a beginning with another outside is another message")
	}
	if of(later, alice, nil) != of(later, alice, trailing) {
		t.Error("another spelling is another message")
	}
	if of(first, bob, nil) != of(first, bob, func(s string) string { return strings.Replace(s, `"algorithm":"m`, `"more":1,"algorithm":"n`, 1) }) {
		t.Error("with other members it is another message")
	}
	different := map[string][32]byte{
		"one": of(first, bob, nil), "two": of(next, bob, nil), "three": of(later, alice, nil), "for another": of(first, alice, nil),
		"of another": of(first, bob, func(s string) string {
			return strings.Replace(s, `"sender_key":"`+alice.own.Curve25519.String(), `"sender_key":"`+bob.own.Curve25519.String(), 1)
		}),
		"a body that is none": of(first, bob, func(s string) string { return strings.Replace(s, body(first, bob), "!!", 1) }),
		"another such body":   of(first, bob, func(s string) string { return strings.Replace(s, body(first, bob), "!?", 1) }),
	}
	seen := make(map[[32]byte]string)
	for name, sum := range different {
		if was := seen[sum]; was != "" {
			t.Errorf("%q is the message %q", name, was)
		}
		seen[sum] = name
	}
}

// respelled returns a message that begins a session with another base key outside, by its
// bytes: version, then fields of a tag, a length and 32 bytes (Olm specification, "Pre-key
// messages").
func respelled(t *testing.T, body string) string {
	t.Helper()
	raw, err := base64.RawStdEncoding.DecodeString(body)
	if err != nil || raw[0] != 3 {
		t.Fatalf("version %d, %v", raw[0], err)
	}
	for at := 1; at+34 <= len(raw); at += 34 {
		if raw[at] == 0x12 && raw[at+1] == 32 { // the base key
			raw[at+2] ^= 1
			return base64.RawStdEncoding.EncodeToString(raw)
		}
	}
	t.Fatal("it has no base key")
	return ""
}

// What is packed into one request to /sendToDevice (requirement 5.1): each message under its
// user and device, byte for byte, no more than a number of devices, and each request under a
// transaction ID of its own.
func TestOutboxItems(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	to := func(user id.UserID, device id.DeviceID, content string) Message {
		return Message{To: &trustcache.Device{UserID: user, DeviceID: device}, Content: json.RawMessage(content)}
	}
	if items := OutboxItems("m.dummy", nil, now); len(items) != 0 {
		t.Errorf("%d requests for nobody", len(items))
	}
	items := OutboxItems("m.room.encrypted", []Message{
		to("@b:x", "TWO", `{"n": 1.0}`), to("@a:x", `D"1`, `{"a":1}`), to("@b:x", "ONE", `{}`), to("@b:x", "TWO", `{"again":1}`), to("@ü:x", "<&>", `{}`),
	}, now)
	want := `{"messages":{"@a:x":{"D\"1":{"a":1}},"@b:x":{"ONE":{},"TWO":{"again":1}},"@ü:x":{"<&>":{}}}}`
	if len(items) != 1 || string(items[0].Body) != want || items[0].EventType != "m.room.encrypted" || !items[0].CreatedAt.Equal(now) {
		t.Errorf("%+v\n%s\nwant\n%s", items, items[0].Body, want)
	}
	for n, requests := range map[int]int{1: 1, shareBatch - 1: 1, shareBatch: 1, shareBatch + 1: 2, 2*shareBatch + 1: 3} {
		var all []Message
		for i := range n {
			all = append(all, to("@b:x", id.DeviceID(fmt.Sprint("D", i)), fmt.Sprintf(`{"i":%d}`, i)))
		}
		got, txns := make(map[string]int), make(map[string]bool)
		items := OutboxItems("m.dummy", all, now)
		for _, item := range items {
			var body struct {
				Messages map[string]map[string]struct{ I int }
			}
			if err := json.Unmarshal(item.Body, &body); err != nil {
				t.Fatal(err)
			}
			for device, content := range body.Messages["@b:x"] {
				got[device] = content.I
			}
			if len(body.Messages["@b:x"]) > shareBatch || txns[item.TxnID] || item.TxnID == "" {
				t.Errorf("%d messages in a request with the ID %q", len(body.Messages["@b:x"]), item.TxnID)
			}
			txns[item.TxnID] = true
		}
		if len(items) != requests || len(got) != n || got[fmt.Sprint("D", n-1)] != n-1 {
			t.Errorf("%d messages are %d requests with %d of them", n, len(items), len(got))
		}
	}
}
