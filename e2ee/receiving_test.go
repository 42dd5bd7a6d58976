package e2ee_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// logBook keeps what is logged.
type logBook struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logBook) holds(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.all.Bytes(), []byte(text))
}

// Whatever is held back, not a byte of its text reaches the client, the log or the
// database: not from its content, its replacement, what is bundled with it, or what else
// the homeserver put beside it. The placeholder says in plain words what was held back and
// why, and with "hide" even that is not shown (requirements 1.18, 26.1).
func TestNothingOfWhatIsHeldBack(t *testing.T) {
	t.Parallel()
	const canary, beside = "CANARY-6f1ed002ab5595859014ebf0951522d9", "CANARY-of-the-homeserver"
	for name, tt := range map[string]struct {
		inject func(st *stage, room string, bob, spy *puppet) (sender string, eventType string, content json.RawMessage)
		code   string
		says   string
	}{
		"from a device that its owner has not confirmed": {
			func(st *stage, room string, _, spy *puppet) (string, string, json.RawMessage) {
				return spy.UserID, "m.room.encrypted", spy.edit(st.target(), room, canary)
			}, "UnsignedDevice", "A message from a device that its owner has not confirmed was held back.",
		},
		"under another sender": {
			func(st *stage, room string, bob, _ *puppet) (string, string, json.RawMessage) {
				return "@carol:liar.test", "m.room.encrypted", bob.edit(st.target(), room, canary)
			}, "MismatchedSender", "A message that was not encrypted by its sender was held back.",
		},
		"not encrypted": {
			func(_ *stage, _ string, bob, _ *puppet) (string, string, json.RawMessage) {
				return bob.UserID, "m.room.message", json.RawMessage(`{"msgtype":"m.text","body":"` + canary + `"}`)
			}, "SentInClear", "A message that was not encrypted, although the room is, was held back.",
		},
	} {
		for _, how := range []trustcache.Withheld{trustcache.WithheldPlaceholder, trustcache.WithheldHide} {
			t.Run(name, func(t *testing.T) {
				var logged logBook
				st := newStage(t, func(o *e2ee.Options) {
					o.Log = zerolog.New(&logged).Level(zerolog.TraceLevel)
					o.Policy = func() trustcache.Policy {
						return trustcache.Policy{InClear: trustcache.InClearWithhold, Withheld: how}
					}
				})
				bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
				spy := newPuppet(t, st.hs, "bob", "SPY")
				room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
				sender, eventType, content := tt.inject(st, room, bob, spy)
				st.told()
				bundled := `{"type":"m.room.message","sender":"` + sender + `","event_id":"$edit","content":{"body":"` + beside + `","m.new_content":{"body":"` + beside + `"}}}`
				event := `{"type":"` + eventType + `","sender":"` + sender + `","event_id":"$held","origin_server_ts":7,"content":` + string(content) +
					`,"text":"` + beside + `","prev_content":{"body":"` + beside + `"},"unsigned":{"age":12,"membership":"join","text":"` + beside +
					`","prev_content":{"body":"` + beside + `"},"m.relations":{"m.replace":` + bundled + `,"m.thread":{"latest_event":` + bundled + `}}}}`
				all, err := st.dev.Open(t.Context(), []e2ee.Incoming{{RoomID: id.RoomID(room), Event: json.RawMessage(event), Redeliver: true, Order: e2ee.OrderAfter}})
				if err != nil {
					t.Fatal(err)
				}
				out := all[0]
				if bytes.Contains(out.Event, []byte("CANARY")) {
					t.Errorf("the client is shown %s", out.Event)
				}
				ev := readShown(t, out.Event)
				if !out.Withheld || out.Hidden != (how == trustcache.WithheldHide) || ev.Content.Body != tt.says ||
					ev.EventID != "$held" || ev.Type != "m.room.message" || ev.Unsigned.Trust.Code != tt.code || ev.Unsigned.Trust.Color != "red" {
					t.Errorf("hidden=%v: %s", out.Hidden, out.Event)
				}
				if !strings.Contains(string(out.Event), `"age":12,"membership":"join"`) {
					t.Errorf("what says nothing of the text is gone: %s", out.Event)
				}
				st.stop()
				if logged.holds("CANARY") {
					t.Error("the text was logged")
				}
				wantNotInFiles(t, filepath.Dir(st.path), canary)
			})
		}
	}
}

// edit returns an encrypted edit of a text, whose key the target was given.
func (p *puppet) edit(to target, room, text string) json.RawMessage {
	p.t.Helper()
	said := p.newMegolm(room)
	said.share(to)
	payload := said.text("* " + text)
	content := payload["content"].(map[string]any)
	content["formatted_body"], content["m.new_content"] = "<b>"+text+"</b>", map[string]any{"msgtype": "m.text", "body": text}
	return said.seal(payload)
}

func wantNotInFiles(t *testing.T, dir, text string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(text)) {
			t.Errorf("the text is in %s", f.Name())
		}
	}
}

// What was held back is delivered, clear, once its sender's device is confirmed: while the
// client syncs, while it is silent and the proxy syncs for it, and when all of that happened
// while the proxy was down.
func TestHeldBackUntilConfirmed(t *testing.T) {
	t.Parallel()
	for name, confirm := range map[string]func(st *stage, confirm func()){
		"while the client syncs": func(_ *stage, confirm func()) { confirm() },
		"while the client is silent": func(st *stage, confirm func()) {
			confirm()
			for range 3 {
				st.told()
			}
			st.dev.Maintain(st.t.Context())
		},
		"across a restart": func(st *stage, confirm func()) { confirm(); st.told(); st.again() },
		"while the proxy is down": func(st *stage, confirm func()) {
			st.stop()
			confirm()
			st.start()
			st.dev = st.device(st.alice)
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			late := newPuppet(t, st.hs, "bob", "LATE")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			said := late.newMegolm(room)
			said.share(st.target())
			event := said.say("held back at first")
			if code := st.wantHidden(event, "held back at first"); code != "UnsignedDevice" {
				t.Error(code)
			}
			confirm(st, func() { own.confirm(late) })
			st.awaitText(event, "held back at first")
			if trust := trustOf(st.shown[event]); trust["color"] != "none" || trust["decrypted"] != true {
				t.Errorf("delivered with %v", trust)
			}
			delete(st.shown, event)
			st.sync() // continues from the response that carried it
			st.sync()
			if st.shown[event] != nil {
				t.Error("it was delivered twice")
			}
		})
	}
}

// A listed bridge bot may carry other users' messages: they are shown with the warning that
// the specification demands, if the bot's device is confirmed; one that is not listed may
// not (requirements 1.20, 1.21).
func TestBridges(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) {
		o.Policy = func() trustcache.Policy {
			return trustcache.Policy{Bridges: map[id.UserID]bool{"@bridge:liar.test": true}}
		}
	})
	bridge := newPuppet(t, st.hs, "bridge", "BRIDGE")
	other, _ := confirmedPuppet(t, st.hs, "other", "OTHER")
	room := st.hs.CreateRoom(true, st.alice.UserID, bridge.UserID, other.UserID)
	carry := func(by *puppet, sender, text string) string {
		said := by.newMegolm(room)
		said.share(st.target())
		return st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: sender, Content: said.seal(said.text(text))})
	}
	event := carry(bridge, "@ghost:liar.test", "from over the bridge")
	if code := st.wantHidden(event, "from over the bridge"); code != "MismatchedSender" {
		t.Errorf("from a bot that is not confirmed: %s", code)
	}
	newIdentity(t, st.hs, bridge.Session).confirm(bridge)
	st.awaitText(event, "from over the bridge")
	trust := trustOf(st.shown[event])
	if trust["code"] != "MismatchedSender" || trust["color"] != "red" || trust["user_id"] != bridge.UserID ||
		trust["message"] != "The sender of this message does not match the owner of the device that encrypted it." {
		t.Errorf("delivered with %v", trust)
	}
	if code := st.wantHidden(carry(other, "@ghost:liar.test", "not listed"), "not listed"); code != "MismatchedSender" {
		t.Errorf("from a user who is no bridge: %s", code)
	}
}

// A key that is not shared comes with a reason, which is shown; the key is taken all the same
// when it comes later (requirements 10.1, 10.7).
func TestWithheldReasonsAreShown(t *testing.T) {
	t.Parallel()
	for code, says := range map[string]string{
		"m.unverified":  "The sender held this message back because this device is not verified by its owner.",
		"m.blacklisted": "You don't have access to this message.",
		"org.example.x": "You don't have access to this message.",
	} {
		t.Run(code, func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			said := bob.newMegolm(room)
			key := roomKey(room, said.ID().String(), said.export())
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "m.room_key.withheld", map[string]any{
				"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.ID(), "code": code, "sender_key": bob.curve25519,
			})
			st.told()
			event := said.say("after all")
			if got := st.wantHidden(event, "after all"); got != "Withheld" {
				t.Error(got)
			}
			trust := trustOf(st.shown[event])
			if trust["withheld_code"] != code || trust["message"] != says || trust["decrypted"] != false {
				t.Errorf("shown as %v", trust)
			}
			st.later(time.Hour)
			bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", key))
			st.awaitText(event, "after all")
		})
	}
}

// The verdicts that hide nothing (docs/msc4153.md): a plain event in an encrypted room is
// marked; what comes under an identity that waits for an answer is shown red, until it is
// acknowledged.
func TestWhatIsShownWithAShield(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	shield := func(event string) string {
		trust := trustOf(st.shown[event])
		return fmt.Sprint(trust["color"], trust["code"], trust["decrypted"])
	}
	plain := st.hs.Inject(room, liar.Event{Type: "m.room.message", Sender: bob.UserID, Content: json.RawMessage(`{"msgtype":"m.text","body":"in clear"}`)})
	st.awaitText(plain, "in clear")
	if got := shield(plain); got != "redSentInClearfalse" {
		t.Errorf("in clear: %s", got)
	}
	said := bob.newMegolm(room)
	said.share(st.target())
	before := said.say("before")
	st.awaitText(before, "before")
	if got := shield(before); got != "none<nil> true" {
		t.Errorf("before: %s", got)
	}

	fresh := newPuppet(t, st.hs, "bob", "FRESH")
	changed := newIdentity(t, st.hs, bob.Session)
	changed.confirm(fresh)
	st.told()
	under := fresh.newMegolm(room)
	under.share(st.target())
	waits := under.say("who am I")
	st.awaitText(waits, "who am I")
	if got := shield(waits); got != "redUnverifiedIdentitytrue" {
		t.Errorf("while it waits: %s", got)
	}
	if warningCodes(t, st.dev)["identity_changed"].UserID != id.UserID(bob.UserID) {
		t.Error("nobody was warned")
	}
	if err := st.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), id.Ed25519(publicKey(changed.master))); err != nil {
		t.Fatal(err)
	}
	after := under.say("it is me")
	st.awaitText(after, "it is me")
	if got := shield(after); got != "none<nil> true" {
		t.Errorf("acknowledged: %s", got)
	}
}
