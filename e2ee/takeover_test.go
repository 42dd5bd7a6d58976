package e2ee_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// asAnotherProgram returns a stage's device as a program with libolm keeps it, with its
// sessions with one other device.
func asAnotherProgram(t *testing.T, st *stage, with *puppet) e2ee.Takeover {
	t.Helper()
	key := []byte("DEFAULT_KEY")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	acct, err := st.db.LookupAccount(t.Context(), id.UserID(st.alice.UserID))
	check(err)
	dev, err := st.db.Device(t.Context(), acct, id.DeviceID(st.alice.DeviceID))
	check(err)
	var own account.Account
	check(own.UnpickleLibOlm(dev.Olm.Reveal()))
	out := e2ee.Takeover{UserID: acct.UserID, DeviceID: dev.DeviceID, PickleKey: key, Published: dev.KeysUploaded, Token: dev.Token}
	out.Account, err = own.Pickle(key)
	check(err)
	sessions, err := st.db.OlmSessions(t.Context(), acct, dev.ID, []string{with.curve25519.String()})
	check(err)
	for _, row := range sessions[with.curve25519.String()] {
		s := session.NewOlmSession()
		check(s.UnpickleLibOlm(row.Pickle.Reveal()))
		pickle, err := s.Pickle(key)
		check(err)
		out.OlmSessions = append(out.OlmSessions, e2ee.TakeoverOlmSession{
			ID: s.ID(), TheirKey: with.curve25519, Pickle: pickle, Created: row.CreatedAt, Used: row.LastReceivedAt,
		})
	}
	var keys []e2ee.TakeoverRoomKey
	for row, err := range st.db.AllInboundSessions(t.Context(), acct, dev.ID) {
		check(err)
		var s session.MegolmInboundSession
		check(s.UnpickleLibOlm(row.Pickle.Reveal()))
		pickle, err := s.Pickle(key)
		check(err)
		keys = append(keys, e2ee.TakeoverRoomKey{SessionRef: row.SessionRef, SenderKey: with.curve25519, SigningKey: with.ed25519, Pickle: pickle})
	}
	out.RoomKeys = func(yield func(e2ee.TakeoverRoomKey, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
	if len(out.OlmSessions) == 0 || len(keys) == 0 {
		t.Fatal("there is nothing to take over: the test tests nothing")
	}
	return out
}

// A device that another program had goes on behind the proxy: its keys are the same, and
// are not uploaded again; what it could read it reads; who has a session with it goes on
// with that.
func TestTakenOverDeviceGoesOn(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]bool{"with its token": true, "whose token a client brings": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			takenOverDeviceGoesOn(t, token)
		})
	}
}

func takenOverDeviceGoesOn(t *testing.T, token bool) {
	t.Helper()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	keys := status(t, st.dev).Keys
	from := asAnotherProgram(t, st, bob)
	if !token {
		from.Token = secret.String{}
	}
	st.stop()

	next := newRig(t, st.hs, unspread(nil))
	taken, err := e2ee.TakeOver(t.Context(), next.db, from)
	if err != nil || taken.OlmSessions != len(from.OlmSessions) || taken.RoomKeys == 0 || taken.UnreadableRoomKeys+taken.UnreadableOlmSessions != 0 {
		t.Fatalf("%+v, %v", taken, err)
	}
	next.restart()
	requests := func(path string) int {
		return len(st.hs.Requests(liar.Is(http.MethodPost, path)))
	}
	uploads := func() (n int) {
		for _, signers := range passedOn(st.hs, st.alice) {
			if len(signers) == 1 { // with the owner's signature they are passed on once
				n++
			}
		}
		return n
	}
	claims, published := requests("keys/claim"), uploads()
	after := &stage{rig: next, alice: st.alice, shown: make(map[string]map[string]any)}
	after.dev = after.device(after.alice)
	if got := status(t, after.dev).Keys; got.Ed25519 != keys.Ed25519 || got.Curve25519 != keys.Curve25519 {
		t.Errorf("the device has other keys: %+v, and had %+v", got, keys)
	}
	after.awaitText(said.say("with the key that was taken over"), "with the key that was taken over")
	anew := bob.newMegolm(room)
	anew.share(after.target())
	after.awaitText(anew.say("with a new one"), "with a new one")
	if requests("keys/claim") != claims {
		t.Error("the session with bob's device was not taken over: another was begun")
	}
	if n := uploads() - published; n != 0 {
		t.Errorf("its keys were uploaded %d times", n)
	}
	// It is here now, and its ratchets have moved.
	if _, err := e2ee.TakeOver(t.Context(), next.db, from); !errors.Is(err, e2ee.ErrTakeoverHere) {
		t.Errorf("once more: %v", err)
	}
}

// Pantalaimon logs in beside its client, as another device, and that has the keys. What it
// could read its client reads behind the proxy: the device that was taken over lives on
// without a client, and the client's device gets its room keys.
func TestClientReadsWhatWasTakenOver(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	was := &stage{rig: newRig(t, hs, unspread(func(o *e2ee.Options) { o.ManualBootstrap = true })), alice: hs.Login("alice", "PANTALAIMON"), shown: make(map[string]map[string]any)}
	was.dev = was.device(was.alice)
	settle(t, was.dev)
	_, bob, said := hear(t, was)
	history := said.say("from before")
	was.awaitText(history, "from before")
	from := asAnotherProgram(t, was, bob)
	was.stop()

	next := newRig(t, hs, unspread(func(o *e2ee.Options) { o.Round = 50 * time.Millisecond }))
	if _, err := e2ee.TakeOver(t.Context(), next.db, from); err != nil {
		t.Fatal(err)
	}
	next.restart()
	client := &stage{rig: next, alice: hs.Login("alice", "CLIENT"), shown: make(map[string]map[string]any)}
	client.dev = client.device(client.alice)
	client.awaitText(history, "from before")
}

// Of a device whose keys cannot be read nothing is taken, and it is said why.
func TestTakeoverOfWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	_, bob, _ := hear(t, st)
	from := asAnotherProgram(t, st, bob)
	next := newRig(t, st.hs, nil)
	for name, row := range map[string]struct {
		change func(*e2ee.Takeover)
		want   error
	}{
		"another key":    {func(d *e2ee.Takeover) { d.PickleKey = []byte("ANOTHER_KEY") }, e2ee.ErrTakeoverOtherKey},
		"another format": {func(d *e2ee.Takeover) { d.Account = []byte(`{"vodozemac":1}`) }, e2ee.ErrTakeoverFormat},
		"nothing":        {func(d *e2ee.Takeover) { d.Account = nil }, e2ee.ErrTakeoverFormat},
		"something else": {func(d *e2ee.Takeover) { d.Account = d.OlmSessions[0].Pickle }, e2ee.ErrTakeoverFormat},
	} {
		changed := from
		row.change(&changed)
		if _, err := e2ee.TakeOver(t.Context(), next.db, changed); !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := next.db.LookupAccount(t.Context(), from.UserID); err == nil {
		t.Error("there is an account all the same")
	}
}

// A take-over that is cut off leaves a device that is of no use, and goes on when it is
// asked for again.
func TestTakeoverThatIsCutOff(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	_, bob, _ := hear(t, st)
	from := asAnotherProgram(t, st, bob)
	next := newRig(t, st.hs, nil)
	whole, failed := from.RoomKeys, errors.New("the disk is gone")
	from.RoomKeys = func(yield func(e2ee.TakeoverRoomKey, error) bool) {
		for k := range whole {
			if !yield(k, nil) {
				return
			}
		}
		yield(e2ee.TakeoverRoomKey{}, failed)
	}
	if _, err := e2ee.TakeOver(t.Context(), next.db, from); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	for ref, err := range next.db.OwnDevices(t.Context()) {
		t.Errorf("%+v is taken for a device of ours: %v", ref, err)
	}
	from.RoomKeys = whole
	if taken, err := e2ee.TakeOver(t.Context(), next.db, from); err != nil || taken.RoomKeys == 0 {
		t.Fatalf("%+v, %v", taken, err)
	}
	acct, err := next.db.LookupAccount(t.Context(), from.UserID)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := next.db.Device(t.Context(), acct, from.DeviceID)
	if err != nil || dev.Token != from.Token || dev.Token == (secret.String{}) || !dev.KeysUploaded {
		t.Errorf("%+v, %v", dev, err)
	}
}
