package verification

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/trustcache"
)

// Two users verify each other by emoji, started by either side, to devices and in a room. Each
// signs the other's identity, not a device.
func TestEmoji(t *testing.T) {
	t.Parallel()
	for _, room := range []id.RoomID{"", dm} {
		for _, second := range []bool{false, true} {
			w := twoUsers(t)
			w.room = room
			w.request(w.a)
			w.want(Requested, Requested)
			w.do(w.b, Flow.Accept)
			w.want(Ready, Ready)
			starter := w.a
			if second {
				starter = w.b
			}
			w.do(starter, Flow.Emoji)
			w.want(Compare, Compare)
			a, b := w.a.flow.View(), w.b.flow.View()
			if len(a.Emoji) != 7 || a.Decimals == nil || !cmp.Equal(a.Emoji, b.Emoji) || *a.Decimals != *b.Decimals {
				t.Errorf("they see %v %v and %v %v", a.Emoji, a.Decimals, b.Emoji, b.Decimals)
			}
			w.do(w.a, confirm(true))
			w.want(Confirmed, Compare)
			w.do(w.b, confirm(true))
			w.want(Done, Done)
			if want := (&Target{User: bob, Master: w.b.us.Master}); !cmp.Equal(w.a.got, want) {
				t.Errorf("alice signs %+v, want %+v", w.a.got, want)
			}
			if want := (&Target{User: alice, Master: w.a.us.Master}); !cmp.Equal(w.b.got, want) {
				t.Errorf("bob signs %+v, want %+v", w.b.got, want)
			}
		}
	}
}

// A new device and one that has the identity: the one signs the device, the other trusts the
// identity.
func TestOwnDevices(t *testing.T) {
	t.Parallel()
	for _, newAsks := range []bool{false, true} {
		w := twoDevices(t)
		asks, answers := w.a, w.b
		if newAsks {
			asks, answers = w.b, w.a
		}
		w.request(asks)
		w.do(answers, Flow.Accept)
		w.do(asks, Flow.Emoji)
		w.do(w.a, confirm(true))
		w.do(w.b, confirm(true))
		w.want(Done, Done)
		if want := (&Target{User: alice, Master: w.a.us.Master, Device: "NEW", Key: w.b.us.Ed25519}); !cmp.Equal(w.a.got, want) {
			t.Errorf("the old one signs %+v, want %+v", w.a.got, want)
		}
		if want := (&Target{User: alice, Master: w.a.us.Master, Adopt: true}); !cmp.Equal(w.b.got, want) {
			t.Errorf("the new one records %+v, want %+v", w.b.got, want)
		}
	}
}

// Who may not verify whom, and says why at once: no identity at the other side (single devices
// of others are not verified), none here, neither of two own devices with it.
func TestImpossible(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		of   func(*testing.T) *world
		make func(w *world)
		want error
	}{
		{"the other has no identity", twoUsers, func(w *world) { w.a.users[bob].Current = "" }, core.ErrUnverifiable},
		{"a device of theirs has the name of their identity", twoUsers, func(w *world) { w.a.users[bob].Devices[0].Fault = trustcache.FaultIdentityKey }, core.ErrUnverifiable},
		{"nothing is known of the other", twoUsers, func(w *world) { w.a.users[bob].Knowledge = trustcache.KnowledgeUnreachable }, core.ErrCannotEncrypt},
		{"this device does not have the identity", twoUsers, func(w *world) { w.a.us.Signs = false }, core.ErrDeviceNotSigned},
		{"the own identity is not verified", twoUsers, func(w *world) { w.a.us.Trusted = false }, core.ErrDeviceNotSigned},
		{"there is no own identity", twoDevices, func(w *world) { w.a.us.Master = "" }, core.ErrNoIdentity},
		{"the other device is gone", twoDevices, func(w *world) { w.a.users[alice].Devices = nil }, core.ErrUnknownDevice},
		{"neither has the identity", twoDevices, func(w *world) { w.a.us.Trusted = false }, core.ErrDeviceNotSigned},
		{"the keys to sign with are not here", twoDevices, func(w *world) { w.a.us.Signs = false }, core.ErrDeviceNotSigned},
	} {
		w := tc.of(t)
		tc.make(w)
		if _, _, err := Begin(w.known(w.a), "", "txn", []id.DeviceID{w.b.us.Device}); !errors.Is(err, tc.want) {
			t.Errorf("%s: asking gives %v, want %v", tc.name, err, tc.want)
		}
		w = tc.of(t)
		w.request(w.b)
		tc.make(w)
		if f, _, err := w.a.flow.Accept(w.known(w.a)); !errors.Is(err, tc.want) || f.state != Requested {
			t.Errorf("%s: accepting gives %v, want %v, and %s", tc.name, err, tc.want, f.state)
		}
	}
}

// Which requests are taken at all (requirements 13.3, 13.6).
func TestAsked(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		room id.RoomID
		age  time.Duration
		want bool
	}{
		{"now", "", 0, true},
		{"almost too old", "", lifetime, true},
		{"too old", "", lifetime + time.Second, false},
		{"a clock that is ahead", "", -fromFuture, true},
		{"from the future", "", -fromFuture - time.Second, false},
		{"in a room", dm, 0, true},
		{"in a room, too old", dm, lifetime + time.Second, false},
	} {
		w := twoUsers(t)
		w.room = tc.room
		w.now = start().Add(-tc.age)
		var ev Event
		w.tamper = func(_ *person, m Message) *Message { ev = w.event(alice, m); return nil }
		w.request(w.a)
		if _, ok := Asked(w.b.us, &ev, start()); ok != tc.want {
			t.Errorf("%s: taken %v", tc.name, ok)
		}
		if tc.room != "" {
			if _, ok := Asked(Us{User: "@carol:hs", Device: "C"}, &ev, start()); ok {
				t.Errorf("%s: somebody takes what is for bob", tc.name)
			}
		}
		if _, ok := Asked(Us{User: alice, Device: "ALICE"}, &ev, start()); ok {
			t.Errorf("%s: it is taken by who sent it", tc.name)
		}
	}
}

// When requests and flows end by themselves (requirements 13.6, 13.16), and who is told.
func TestExpiry(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.request(w.a)
	ends := func(f Flow, after time.Duration) (bool, int) {
		next, eff := f.Expire(start().Add(after))
		return next.state == Cancelled, len(eff.Send)
	}
	if over, _ := ends(w.b.flow, attention-time.Second); over {
		t.Error("a request ends before its time")
	}
	if over, told := ends(w.b.flow, attention); !over || told != 0 {
		t.Errorf("a request that nobody looks at: over %v, told %d", over, told)
	}
	if over, _ := ends(w.b.flow.Look(), lifetime-time.Second); over {
		t.Error("a request that somebody looks at ends")
	}
	if over, told := ends(w.a.flow, lifetime); !over || told != 1 {
		t.Errorf("a request that was not answered: over %v, told %d", over, told)
	}
	w.do(w.b, Flow.Accept)
	if over, told := ends(w.b.flow, lifetime); !over || told != 1 {
		t.Errorf("one that was accepted: over %v, told %d", over, told)
	}
}

// One of several devices that were asked answers: the others are told, by acceptance or by
// rejection, and a second answer changes nothing (requirement 13.2).
func TestSeveralDevicesAnswer(t *testing.T) {
	t.Parallel()
	for _, accept := range []bool{true, false} {
		w := twoUsers(t)
		w.a.users[bob] = aUser(bob, w.b.us.Master, false, aDevice(bob, "BOB", w.b.us.Ed25519, true), aDevice(bob, "TABLET", newKey(t), true))
		f, eff, err := Begin(w.known(w.a), "", "txn", []id.DeviceID{"BOB", "TABLET"})
		if err != nil {
			t.Fatal(err)
		}
		w.take(w.a, f, eff)
		before := len(w.a.sent)
		if !accept {
			w.do(w.b, func(f Flow, k Known) (Flow, Effects, error) { return f.Cancel(k.Now) })
			w.wantCancelled(codeUser)
			last := w.a.sent[len(w.a.sent)-1]
			if last.Type != Prefix+typeCancel || !slices.Contains(last.Devices, "TABLET") {
				t.Errorf("the tablet is told %s %v", last.Type, last.Devices)
			}
			continue
		}
		w.do(w.b, Flow.Accept)
		w.want(Ready, Ready)
		told := w.a.sent[before:]
		if len(told) != 1 || told[0].Type != Prefix+typeCancel || !slices.Equal(told[0].Devices, []id.DeviceID{"TABLET"}) {
			t.Fatalf("the tablet is told %+v", told)
		}
		late := w.event(bob, Message{Type: Prefix + typeReady, Content: w.a.flow.content(text("from_device", "TABLET"), list("methods", methodSAS))})
		w.hear(w.a, late)
		w.want(Ready, Ready)
		if w.a.flow.device != "BOB" {
			t.Errorf("alice verifies with %s", w.a.flow.device)
		}
	}
}

// In a room bob's other device answers: this one stops asking (requirement 13.3).
func TestAnsweredElsewhere(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.room = dm
	w.request(w.a)
	w.hear(w.b, w.event(bob, Message{Type: Prefix + typeReady, Content: w.b.flow.content(text("from_device", "TABLET"), list("methods", methodSAS))}))
	if w.b.flow.state != Cancelled || w.b.flow.code != codeAccepted || len(w.b.sent) != 0 {
		t.Errorf("it is %s (%s), and has sent %v", w.b.flow.state, w.b.flow.code, w.b.sent)
	}
}

// Both choose emoji at once: the start of the smaller user ID, or device ID, counts
// (requirement 13.8).
func TestTwoStarts(t *testing.T) {
	t.Parallel()
	for _, of := range []func(*testing.T) *world{twoUsers, twoDevices} {
		w := of(t)
		w.request(w.a)
		w.do(w.b, Flow.Accept)
		var held []Message
		w.tamper = func(_ *person, m Message) *Message { held = append(held, m); return nil }
		w.do(w.a, Flow.Emoji)
		w.do(w.b, Flow.Emoji)
		w.tamper = nil
		smaller := w.a.us.User < w.b.us.User || w.a.us.User == w.b.us.User && w.a.us.Device < w.b.us.Device
		// Who gives way answers after its own start.
		if smaller {
			w.hear(w.a, w.event(w.b.us.User, held[1]))
			w.hear(w.b, w.event(w.a.us.User, held[0]))
		} else {
			w.hear(w.b, w.event(w.a.us.User, held[0]))
			w.hear(w.a, w.event(w.b.us.User, held[1]))
		}
		w.want(Compare, Compare)
		if w.a.flow.sas.ours != smaller || w.b.flow.sas.ours == smaller {
			t.Errorf("the start of %s counts: %v", w.a.us.Device, w.a.flow.sas.ours)
		}
		w.do(w.a, confirm(true))
		w.do(w.b, confirm(true))
		w.want(Done, Done)
	}
}

// A start that nobody asked for waits for a person, and is answered then (requirement 13.9).
func TestStartWithoutRequest(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.b.flow = Flow{}
	w.do(w.a, Flow.Emoji)
	if w.b.flow.state != Requested || !w.b.flow.incoming {
		t.Fatalf("it is %s", w.b.flow.state)
	}
	w.do(w.b, Flow.Accept)
	w.want(Compare, Compare)
	w.do(w.a, confirm(true))
	w.do(w.b, confirm(true))
	w.want(Done, Done)
}

// What comes twice changes nothing; what comes at the wrong time, or says what cannot be, ends
// the flow at both sides with its code.
func TestDisorder(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.request(w.a)
	w.do(w.b, Flow.Accept)
	w.hear(w.a, w.event(bob, w.b.sent[0]))
	w.want(Ready, Ready)

	for name, tc := range map[string]struct {
		kind, code string
	}{
		"a key before its time": {typeKey, codeUnexpected}, "codes before their time": {typeMac, codeUnexpected},
		"an acceptance of nothing": {typeAccept, codeUnexpected}, "done before its time": {typeDone, codeUnexpected},
		"a second acceptance": {typeReady, codeUnexpected},
	} {
		w := twoUsers(t)
		w.request(w.a)
		w.do(w.b, Flow.Accept)
		content := w.a.flow.content(text("from_device", "BOB"), text("key", "k"))
		w.hear(w.a, w.event(bob, Message{Type: Prefix + tc.kind, Content: content}))
		if w.a.flow.state != Cancelled || w.a.flow.code != tc.code || w.b.flow.code != tc.code {
			t.Errorf("%s: %s (%s), the other (%s)", name, w.a.flow.state, w.a.flow.code, w.b.flow.code)
		}
	}
}

// That the other side is done may come before the codes that prove it: it says nothing without them.
func TestDoneBeforeTheCodes(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.toCompare()
	w.hear(w.a, w.event(bob, Message{Type: Prefix + typeDone, Content: w.a.flow.content()}))
	w.want(Compare, Compare)
	w.do(w.a, confirm(true))
	w.want(Confirmed, Compare)
	w.do(w.b, confirm(true))
	w.want(Done, Done)
}

// Whatever somebody else says about a flow changes nothing, also if they know its name.
func TestStrangers(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	w.toCompare()
	for _, kind := range []string{typeCancel, typeKey, typeMac, typeDone, typeStart, typeReady} {
		w.hear(w.a, w.event("@carol:hs", Message{Type: Prefix + kind, Content: w.a.flow.content(text("code", codeUser), text("from_device", "BOB"))}))
	}
	w.want(Compare, Compare)
}

// Numbers and emoji of bytes, computed by hand from the table of the specification: every bit
// counts, none twice (requirement 13.15). The seven emoji are in one order, with their names.
func TestShortStrings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		bytes   []byte
		numbers [3]int
		emoji   [7]int
	}{
		{[]byte{0, 0, 0, 0, 0, 0}, [3]int{1000, 1000, 1000}, [7]int{}},
		{[]byte{255, 255, 255, 255, 255, 255}, [3]int{9191, 9191, 9191}, [7]int{63, 63, 63, 63, 63, 63, 63}},
		{[]byte{0x80, 0, 0, 0, 0, 0}, [3]int{1000 + 4096, 1000, 1000}, [7]int{32}},
		{[]byte{0, 0x08, 0, 0, 0, 0}, [3]int{1001, 1000, 1000}, [7]int{0, 0, 32}},
		{[]byte{0, 0x04, 0, 0, 0, 0}, [3]int{1000, 1000 + 4096, 1000}, [7]int{0, 0, 16}},
		{[]byte{0, 0, 0, 0x40, 0, 0}, [3]int{1000, 1001, 1000}, [7]int{0, 0, 0, 0, 16}},
		{[]byte{0, 0, 0, 0x20, 0, 0}, [3]int{1000, 1000, 1000 + 4096}, [7]int{0, 0, 0, 0, 8}},
		{[]byte{0, 0, 0, 0, 0x02, 0}, [3]int{1000, 1000, 1001}, [7]int{0, 0, 0, 0, 0, 0, 0}},
		{[]byte{0, 0, 0, 0, 0, 0x40}, [3]int{1000, 1000, 1000}, [7]int{0, 0, 0, 0, 0, 0, 1}},
	} {
		if got := decimals(tc.bytes); got != tc.numbers {
			t.Errorf("%x: %v, want %v", tc.bytes, got, tc.numbers)
		}
		want := tc.emoji
		if tc.bytes[4] == 0x02 {
			want[6] = 2 << 2 // bits 33 to 40 are over two emoji
			want = [7]int{0, 0, 0, 0, 0, 0, 8}
		}
		if got := emojiNumbers(tc.bytes); got != want {
			t.Errorf("%x: %v, want %v", tc.bytes, got, want)
		}
	}
	seen := make(map[string]bool)
	for n := range 64 {
		e := emojiOf(n)
		if e.Symbol == "" || e.Name == "" || seen[e.Symbol] || seen[e.Name] || e.Names["de"] == "" || len(e.Names) < 25 {
			t.Errorf("%d is %+v", n, e)
		}
		seen[e.Symbol], seen[e.Name] = true, true
	}
	if dog, pin := emojiOf(0), emojiOf(63); dog.Name != "Dog" || dog.Names["de"] != "Hund" || pin.Name != "Pin" || pin.Symbol != "📌" {
		t.Errorf("the first is %+v, the last %+v", dog, pin)
	}
}
