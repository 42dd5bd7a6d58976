package verification

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// edit changes members of messages of one kind from one side.
func edit(from **person, kind string, change func(strictjson.Object) strictjson.Object) func(*person, Message) *Message {
	return func(p *person, m Message) *Message {
		if p != *from || m.Type != Prefix+kind {
			return &m
		}
		obj, err := strictjson.Parse(bytes.Clone(m.Content))
		if err != nil {
			panic(err)
		}
		m.Content = change(obj).Encode()
		return &m
	}
}

// Attack: the homeserver shows alice a master key of its own for bob, and bob one for alice,
// and passes the verification on as it is. The emoji match, since it is one conversation; but
// the codes are for other keys. Nobody is verified (attack A28).
func TestAttackSwappedIdentities(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.a.users[bob].Current, w.b.users[alice].Current = newKey(t), newKey(t)
	w.toCompare()
	w.do(w.b, confirm(true))
	w.wantCancelled(codeKeyMismatch)

	// The same with a QR code: it shows which identity bob has, and which he thinks is alice's.
	w = twoUsers(t)
	w.a.users[bob].Current = newKey(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.a, scan(t, w.b.flow.qr.shown))
	w.wantCancelled(codeKeyMismatch)

	w = twoUsers(t)
	w.b.users[alice].Current = newKey(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.a, scan(t, w.b.flow.qr.shown))
	w.wantCancelled(codeKeyMismatch)
}

// Attack: the homeserver makes two conversations of one, with keys of its own at both ends. It
// is bound by a commitment before it sees the key of who started, so that it cannot choose
// a key for which the emoji are the same: the persons see other emoji.
func TestAttackTwoConversations(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	mallory, err := newEphemeral()
	if err != nil {
		t.Fatal(err)
	}
	w.tamper = func(p *person, m Message) *Message {
		if m.Type == Prefix+typeKey {
			m.Content = p.flow.content(text("key", mallory.public()))
		}
		if m.Type == Prefix+typeAccept {
			bound, err := commitment(mallory.public(), w.a.flow.sas.startRaw)
			if err != nil {
				t.Fatal(err)
			}
			obj, _ := strictjson.Parse(bytes.Clone(m.Content))
			m.Content = obj.Set("commitment", strictjson.Quote(bound)).Encode()
		}
		return &m
	}
	w.toCompare()
	a, b := w.a.flow.View(), w.b.flow.View()
	if *a.Decimals == *b.Decimals {
		t.Fatal("the numbers are the same")
	}
	w.tamper = nil
	w.do(w.a, confirm(false))
	w.wantCancelled(codeSAS)
}

// Attack: the homeserver sees the key of who started and then chooses another key for who
// accepted, whose commitment it passed on before. The commitment does not fit.
func TestAttackKeyAfterCommitment(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	mallory, err := newEphemeral()
	if err != nil {
		t.Fatal(err)
	}
	w.tamper = edit(&w.b, typeKey, func(o strictjson.Object) strictjson.Object { return o.Set("key", strictjson.Quote(mallory.public())) })
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.a, Flow.Emoji)
	w.wantCancelled(codeCommitment)

	// The same with the start: it is in the commitment as it was sent, not as it was understood.
	w = twoUsers(t)
	w.tamper = edit(&w.a, typeStart, func(o strictjson.Object) strictjson.Object { return append(o, text("more", "x")) })
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.a, Flow.Emoji)
	w.wantCancelled(codeCommitment)
}

// Attack: the homeserver sends alice's own key and codes back to her, as bob's (unknown key
// share). A key of her own is refused; and codes are for one direction only.
func TestAttackReflection(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.b, Flow.Emoji) // bob starts: alice accepts, and hears a key before she sends hers
	w = twoUsers(t)
	w.tamper = func(p *person, m Message) *Message {
		if p == w.b && m.Type == Prefix+typeKey {
			m.Content = w.a.flow.content(text("key", w.a.flow.sas.key.public()))
		}
		return &m
	}
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.b, Flow.Emoji)
	if w.a.flow.state != Cancelled || w.a.flow.code != codeInvalid {
		t.Errorf("alice takes her own key: %s (%s)", w.a.flow.state, w.a.flow.code)
	}

	w = twoUsers(t)
	w.toCompare()
	var own Message
	w.tamper = func(p *person, m Message) *Message {
		if p == w.a && m.Type == Prefix+typeMac {
			own = m
			return nil
		}
		return &m
	}
	w.do(w.a, confirm(true))
	w.tamper = nil
	w.hear(w.a, w.event(bob, own))
	w.wantCancelled(codeKeyMismatch)
}

// Attack: keys of small order, for which the shared secret is the same whatever the other key
// is, and texts that are no keys. None is taken.
func TestAttackSmallOrderKeys(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		base64.RawStdEncoding.EncodeToString(make([]byte, 32)),
		base64.RawStdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...)),
		"4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA", // of order 8
		"", "AAAA", strings.Repeat("A", 44), "not base64!",
	} {
		w := twoUsers(t)
		w.tamper = edit(&w.b, typeKey, func(o strictjson.Object) strictjson.Object { return o.Set("key", strictjson.Quote(key)) })
		w.request(w.a)
		w.do(w.b, Flow.Accept)
		w.do(w.b, Flow.Emoji)
		if w.a.flow.state != Cancelled || w.a.flow.code != codeInvalid || w.a.got != nil {
			t.Errorf("%q: %s (%s)", key, w.a.flow.state, w.a.flow.code)
		}
	}
}

// Attack: the homeserver changes the codes: takes the identity's away so that only the device
// would be verified, adds one, takes one of another flow, or none. Nobody is verified.
func TestAttackCodes(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*world, strictjson.Object) strictjson.Object{
		"without the identity": func(w *world, o strictjson.Object) strictjson.Object {
			return o.Set("mac", o.Object("mac").Without("ed25519:"+w.b.us.Master.String()).Encode())
		},
		"with one more": func(_ *world, o strictjson.Object) strictjson.Object {
			return o.Set("mac", append(o.Object("mac"), text("ed25519:MORE", "AAAA")).Encode())
		},
		"exchanged": func(w *world, o strictjson.Object) strictjson.Object {
			mac := o.Object("mac")
			device, _ := mac.Text("ed25519:BOB")
			return o.Set("mac", mac.Set("ed25519:"+w.b.us.Master.String(), strictjson.Quote(device)).Encode())
		},
		"no list":       func(_ *world, o strictjson.Object) strictjson.Object { return o.Without("keys") },
		"an empty list": func(_ *world, o strictjson.Object) strictjson.Object { return o.Set("mac", json.RawMessage(`{}`)) },
		"no codes":      func(_ *world, o strictjson.Object) strictjson.Object { return o.Without("mac") },
	} {
		w := twoUsers(t)
		w.toCompare()
		w.tamper = edit(&w.b, typeMac, func(o strictjson.Object) strictjson.Object { return change(w, o) })
		w.do(w.b, confirm(true))
		w.want(Cancelled, Cancelled)
		if w.a.flow.code != codeKeyMismatch || w.a.got != nil || w.b.got != nil {
			t.Errorf("%s: (%s), verified %+v %+v", name, w.a.flow.code, w.a.got, w.b.got)
		}
	}
}

// Attack: the homeserver shows a device of bob's that has the name of his identity, so that a code
// for the one would count for the other (requirement 1.26). Whoever has such a device is not
// verified, whenever it appears.
func TestAttackDeviceNamedLikeIdentity(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.toCompare()
	named := aDevice(bob, id.DeviceID(w.b.us.Master), newKey(t), false)
	named.Fault = trustcache.FaultIdentityKey
	w.a.users[bob] = aUser(bob, w.b.us.Master, false, w.a.users[bob].Devices[0], named)
	w.do(w.a, confirm(true))
	w.wantCancelled(codeKeyMismatch)
}

// Attack: somebody's identity, or their device's key, is replaced while emoji are compared.
// Whatever the person confirms is not what would be signed.
func TestAttackKeyChangesMeanwhile(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *world){
		"the other's identity": func(w *world) { w.a.users[bob].Current = newKey(t) },
		"the other's device":   func(w *world) { w.a.users[bob].Devices[0].Ed25519 = newKey(t) },
		"the own identity":     func(w *world) { w.a.us.Master = newKey(t) },
		"the own trust":        func(w *world) { w.a.us.Trusted = false },
	} {
		for _, before := range []string{"confirm", "codes"} {
			w := twoUsers(t)
			w.toCompare()
			if before == "codes" {
				w.do(w.a, confirm(true))
				change(w)
				w.do(w.b, confirm(true))
			} else {
				change(w)
				w.do(w.a, confirm(true))
			}
			if w.a.flow.state != Cancelled || w.a.flow.code != codeKeyMismatch || w.a.got != nil {
				t.Errorf("%s, before %s: %s (%s), %+v", name, before, w.a.flow.state, w.a.flow.code, w.a.got)
			}
		}
	}
}

// Attack: who has not seen the code says that it scanned it. Without its secret, or with that of
// another flow, it is an attack (requirement 13.17); and with it nothing is verified before the
// person here confirms.
func TestAttackScannedWithoutTheSecret(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string]string{"none": "", "a wrong one": base64.RawStdEncoding.EncodeToString(make([]byte, secretSize)), "no base64": "??"} {
		w := twoUsers(t)
		w.request(w.a)
		w.do(w.b, Flow.Accept)
		w.hear(w.a, w.event(bob, Message{Type: Prefix + typeStart, Content: w.a.flow.content(
			text("from_device", "BOB"), text("method", methodReciprocate), text("secret", secret))}))
		if w.a.flow.state != Cancelled || w.a.flow.code != codeKeyMismatch {
			t.Errorf("%s: %s (%s)", name, w.a.flow.state, w.a.flow.code)
		}
	}
	w := twoUsers(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.do(w.b, scan(t, w.a.flow.qr.shown))
	w.hear(w.a, w.event(bob, Message{Type: Prefix + typeDone, Content: w.a.flow.content()}))
	w.wantCancelled(codeUnexpected)
}

// Attack: a flow is flooded with messages, each a little different. It ends, and memory stays
// bounded.
func TestAttackFlood(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	for i := range 200 {
		w.hear(w.a, w.event(bob, Message{Type: Prefix + "unknown", Content: w.a.flow.content(text("n", strings.Repeat("x", i)))}))
	}
	if w.a.flow.state != Cancelled || len(w.a.flow.seen) > 65 {
		t.Errorf("it is %s, and remembers %d", w.a.flow.state, len(w.a.flow.seen))
	}
}

// What is kept of a flow that is over has no secret in it.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.toCompare()
	w.do(w.a, confirm(true))
	w.do(w.b, confirm(true))
	for _, p := range []*person{w.a, w.b} {
		if p.flow.sas.shared != nil || p.flow.sas.key.key != nil || p.flow.qr.secret != nil {
			t.Errorf("%s keeps secrets", p.us.Device)
		}
	}
	w.now = w.now.Add(time.Hour)
	if next, eff := w.a.flow.Expire(w.now); next.state != Done || len(eff.Send) > 0 {
		t.Error("what is done expires")
	}
}
