package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

const encryptionContent = `{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_msgs":50}`

func stateCall(room id.RoomID, eventType, key, body string) call {
	c := call{
		handler: PutState, method: http.MethodPut, pattern: "/rooms/{roomId}/state/{eventType}/{stateKey}", body: body,
		params: map[string]string{"roomId": room.String(), "eventType": eventType, "stateKey": key},
	}
	if key == "" {
		c.pattern = "/rooms/{roomId}/state/{eventType}"
		delete(c.params, "stateKey")
	}
	return c
}

// Rooms are encrypted from the very next send after the state event.
func TestPutEncryption(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	rec, err := w.do(stateCall(plainRoom, typeEncryption, "", encryptionContent))
	if err != nil || rec.Code != http.StatusOK {
		t.Fatalf("got %d %v", rec.Code, err)
	}
	want := []string{"encryption " + plainRoom.String() + " " + encryptionContent}
	if diff := cmp.Diff(want, w.dev.noted()); diff != "" {
		t.Errorf("engine (-want +got):\n%s", diff)
	}
	if got := w.up.requests(); len(got) != 1 || got[0].body != encryptionContent {
		t.Errorf("upstream got %+v", got)
	}
	if _, err := w.do(sendCall(plainRoom, "m.room.message", message)); err != nil {
		t.Fatal(err)
	}
	w.wantNoClearText()
}

// The next send of every other device of this process is encrypted too, before its own
// sync has told it.
func TestPutEncryptionTellsOtherDevices(t *testing.T) {
	t.Parallel()
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeForeign, e2ee.ModeNone} {
		w := newWorld(t, mode)
		if _, err := w.do(stateCall(plainRoom, typeEncryption, "", encryptionContent)); err != nil {
			t.Fatal(err)
		}
		other := newFakeDevice(e2ee.ModeProxied)
		w.devices.dev, w.who = other, Identity{UserID: bob, DeviceID: "OTHER"}
		if _, err := w.do(sendCall(plainRoom, "m.room.message", message)); err != nil {
			t.Fatal(err)
		}
		w.wantNoClearText()
		w.devices.dev = newFakeDevice(e2ee.ModeNone)
		_, err := w.do(sendCall(plainRoom, "m.room.message", message))
		wantError(t, err, http.StatusForbidden, apierr.CodeCannotEncrypt)
		w.wantNoClearText()
	}
}

// A homeserver that refuses leaves the room as it is.
func TestPutEncryptionRefusedByHomeserver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.up.respond = func(s seen) (int, string) {
		if strings.Contains(s.path, "/state/") {
			return 403, `{"errcode":"M_FORBIDDEN","error":"no power"}`
		}
		return 200, `{"event_id":"$e"}`
	}
	rec, err := w.do(stateCall(plainRoom, typeEncryption, "", encryptionContent))
	if err != nil || rec.Code != 403 {
		t.Fatalf("got %d %v", rec.Code, err)
	}
	if got := w.dev.noted(); len(got) != 0 {
		t.Errorf("the engine was told %q", got)
	}
	if _, err := w.do(sendCall(plainRoom, "m.room.message", `{"body":"x"}`)); err != nil {
		t.Fatal(err)
	}
}

// What the proxy could not record is not reported as done.
func TestPutEncryptionNotRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.dev.noteErr = errors.New("disk full")
	if _, err := w.do(stateCall(plainRoom, typeEncryption, "", encryptionContent)); err == nil {
		t.Error("got no error")
	}
}

// Nothing but Megolm, and nothing that could be read in two ways (requirements 0.8, 20.2; attack A22).
func TestPutEncryptionWeakened(t *testing.T) {
	t.Parallel()
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeUnknown} {
		for _, room := range []id.RoomID{plainRoom, encryptedRoom, unknownRoom} {
			for _, tt := range []struct {
				body, query, code string
				status            int
			}{
				{`{}`, "", apierr.CodeCannotEncrypt, 403},
				{`{"algorithm":""}`, "", apierr.CodeCannotEncrypt, 403},
				{`{"algorithm":null}`, "", apierr.CodeCannotEncrypt, 403},
				{`{"algorithm":"m.megolm.v9"}`, "", apierr.CodeCannotEncrypt, 403},
				{`{"algorithm":["m.megolm.v1.aes-sha2"]}`, "", apierr.CodeCannotEncrypt, 403},
				{`{"Algorithm":"m.megolm.v1.aes-sha2"}`, "", apierr.CodeCannotEncrypt, 403},
				{`{"algorithm":"m.megolm.v1.aes-sha2","algorithm":"none"}`, "", apierr.CodeBadJSON, 400},
				{`{"algorithm"`, "", apierr.CodeNotJSON, 400},
				{`[]`, "", apierr.CodeBadJSON, 400},
				{encryptionContent, "org.matrix.msc4140.delay=1000", apierr.CodeInvalidParam, 400},
			} {
				w := newWorld(t, mode)
				w.up.versions = `{"unstable_features":{"org.matrix.msc4140":true}}`
				c := stateCall(room, typeEncryption, "", tt.body)
				c.query = tt.query
				_, err := w.do(c)
				wantError(t, err, tt.status, tt.code)
				w.wantNothingUpstream()
			}
		}
	}
}

func TestPutStatePasses(t *testing.T) {
	t.Parallel()
	self, other := alice.String(), bob.String()
	for _, tt := range []struct {
		mode                 e2ee.Mode
		eventType, key, body string
		query                string
		notes                []string
	}{
		{mode: e2ee.ModeProxied, eventType: "m.room.name", body: `{"name":"a","name":"b"}`},
		{mode: e2ee.ModeProxied, eventType: "org.example", key: "k/%", body: `{}`},
		{mode: e2ee.ModeProxied, eventType: typeEncryption, key: "not the one", body: `{"algorithm":"x"}`},
		{mode: e2ee.ModeProxied, eventType: typeMember, key: self, body: `{"membership":"join","displayname":"[irc] x"}`, notes: []string{"join " + self}},
		{mode: e2ee.ModeProxied, eventType: typeMember, key: other, body: `{"membership":"leave"}`, notes: []string{"leave " + other}},
		{mode: e2ee.ModeProxied, eventType: typeMember, key: other, body: `{"membership":7}`},
		{mode: e2ee.ModeProxied, eventType: typeMember, key: "x", body: `{"membership":"join"}`},
		{mode: e2ee.ModeProxied, eventType: typeMember, key: other, body: `{"membership":"invite"}`, query: "org.matrix.msc4140.delay=9"},
		{mode: e2ee.ModeProxied, eventType: typeVisibility, body: `{"history_visibility":"joined"}`, notes: []string{"visibility joined"}},
		{mode: e2ee.ModeProxied, eventType: typeVisibility, body: `{}`},
		{mode: e2ee.ModeProxied, eventType: typeVisibility, key: "k", body: `{"history_visibility":"joined"}`},
		{mode: e2ee.ModeNone, eventType: typeMember, key: self, body: `{"membership":"join"}`},
		{mode: e2ee.ModeNone, eventType: typeVisibility, body: `{"history_visibility":"joined"}`},
		{mode: e2ee.ModeForeign, eventType: typeMember, key: self, body: `{"membership":"join"}`},
		{mode: e2ee.ModeForeign, eventType: typeEncryption, body: `{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_ms":"x"}`},
		{mode: e2ee.ModeForeign, eventType: "m.room.encrypted", key: "m.room.name:", body: `{"ciphertext":"theirs"}`},
		{mode: e2ee.ModeLost, eventType: "m.room.name", body: `{"name":"a"}`},
	} {
		w := newWorld(t, tt.mode)
		w.up.versions = `{"unstable_features":{"org.matrix.msc4140":true}}`
		c := stateCall(encryptedRoom, tt.eventType, tt.key, tt.body)
		c.query = tt.query
		if _, err := w.do(c); err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
		if got := w.up.requests(); len(got) != 1 || got[0].body != tt.body || got[0].query != tt.query {
			t.Errorf("%+v: upstream got %+v", tt, got)
		}
		var want []string
		for _, n := range tt.notes {
			want = append(want, n+" "+encryptedRoom.String())
		}
		if diff := cmp.Diff(want, w.dev.noted()); diff != "" {
			t.Errorf("%+v: engine (-want +got):\n%s", tt, diff)
		}
	}
}

// No window: a send that comes while the encryption event is on its way waits for it,
// and the encryption event waits for a send in clear that is on its way.
func TestSendWhileRoomIsBeingEncrypted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, e2ee.ModeProxied)
		arrivals, answered := make(chan seen), make(chan struct{})
		w.up.arrived = func(s seen) { arrivals <- s; <-answered }
		results := make(chan error)
		run := func(c call) {
			go func() { _, err := w.do(c); results <- err }()
			synctest.Wait()
		}
		finish := func() {
			t.Helper()
			answered <- struct{}{}
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		run(sendCall(plainRoom, "m.room.message", `{"body":"before"}`))
		if s := <-arrivals; s.body != `{"body":"before"}` {
			t.Fatalf("first came %+v", s)
		}
		run(stateCall(plainRoom, typeEncryption, "", encryptionContent))
		run(postCall(plainRoom, "m.room.message", message))
		select {
		case s := <-arrivals:
			t.Fatalf("%+v overtook a send in clear", s)
		default:
		}
		// Nobody else is held up, and other rooms are not.
		run(sendCall(encryptedRoom, "m.room.message", message))
		if s := <-arrivals; !strings.Contains(s.path, encryptedRoom.String()[1:]) {
			t.Fatalf("then came %+v", s)
		}
		finish()

		finish()
		synctest.Wait()
		if s := <-arrivals; !strings.Contains(s.path, "/state/m.room.encryption") {
			t.Fatalf("then came %+v", s)
		}
		synctest.Wait()
		select {
		case s := <-arrivals:
			t.Fatalf("%+v overtook the encryption event", s)
		default:
		}
		finish()
		synctest.Wait()
		if s := <-arrivals; !strings.Contains(s.path, "/send/m.room.encrypted/") {
			t.Fatalf("last came %+v", s)
		}
		finish()
		w.wantNoClearText()
	})
}

// A client that goes away leaves nothing undecided and holds up nobody.
func TestPutEncryptionWithoutItsClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	ctx, cancel := context.WithCancel(t.Context())
	w.up.arrived = func(seen) { cancel() }
	c := stateCall(plainRoom, typeEncryption, "", encryptionContent)
	c.ctx = ctx
	if _, err := w.do(c); err != nil {
		t.Fatal(err)
	}
	if got := w.dev.noted(); len(got) != 1 {
		t.Errorf("engine was told %q", got)
	}
}

func TestRoomOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newRoomOrder()
		ctx := t.Context()
		enter := func(begin func(context.Context, id.UserID, id.RoomID) (func(), error), user id.UserID) func() {
			t.Helper()
			leave, err := begin(ctx, user, plainRoom)
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		first := enter(o.encrypt, alice)
		enter(o.send, bob)() // another user is not held up

		impatient, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := o.send(impatient, alice, plainRoom); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a send got %v, want to give up", err)
		}
		if _, err := o.encrypt(impatient, alice, plainRoom); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second encryption got %v, want to give up", err)
		}
		first()
		first()

		send := enter(o.send, alice)
		impatient, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := o.encrypt(impatient, alice, plainRoom); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an encryption got %v, want to give up", err)
		}
		enter(o.send, alice)() // the one that gave up holds up nobody
		send()

		done := make(chan string, 20)
		hold := enter(o.encrypt, alice)
		for i := range 20 {
			go func() {
				begin := o.send
				if i%5 == 0 {
					begin = o.encrypt
				}
				leave, err := begin(ctx, alice, plainRoom)
				if err == nil {
					leave()
				}
				done <- fmt.Sprint(err)
			}()
		}
		synctest.Wait()
		hold()
		for range 20 {
			if err := <-done; err != "<nil>" {
				t.Error(err)
			}
		}
		if len(o.inFlight) != 0 {
			t.Errorf("%d turns are left", len(o.inFlight))
		}
	})
}
