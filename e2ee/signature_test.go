package e2ee_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Reported: log out, and log in again with the same device ID. Synapse keeps the old
// signature of the device, answers {"failures":{}} to the new one and ignores it. Ten
// uploads in 0.2 s followed, then a refusal of every send, with advice that answered 500.

// uploadsOf counts the signatures of its own device that somebody uploaded.
func uploadsOf(hs *liar.Server, user string, device string) (n int) {
	for _, r := range hs.Requests(liar.Of(user, liar.Is(http.MethodPost, "signatures/upload$"))) {
		var sent map[string]map[string]any
		if r.JSON(&sent) == nil && sent[user][device] != nil {
			n++
		}
	}
	return n
}

// sameDeviceAgain logs a confirmed device out and in again under its ID, at a homeserver
// like Synapse.
func sameDeviceAgain(t *testing.T) (p *person, room string, uploads int) {
	t.Helper()
	hs := liar.New(t)
	hs.KeepOldSignatures()
	p, bob := newPerson(t, hs, "alice", "BOT"), newPerson(t, hs, "bob", "BOBS")
	room = p.newRoom(bob)
	call(t, hs, p.Session, http.MethodPost, "logout", map[string]any{}, nil)
	if err := p.rig.eng.Forget(t.Context(), id.UserID(p.UserID), "BOT"); err != nil {
		t.Fatal(err)
	}
	uploads = uploadsOf(hs, p.UserID, "BOT")
	p.Session = hs.Login("alice", "BOT")
	hs.Inject(room, memberEvent(p.UserID, "join"))
	p.dev = p.rig.device(p.Session)
	await(t, "the signature is not tried", func() bool { return uploadsOf(hs, p.UserID, "BOT") > uploads })
	settle(t, p.dev)
	return p, room, uploads
}

// It is found out, tried again with growing pauses only, whatever the client and its syncs
// do meanwhile, and has a code of its own. send and recover name what helps.
func TestOldSignatureOfTheDeviceIDIsKept(t *testing.T) {
	t.Parallel()
	p, room, before := sameDeviceAgain(t)
	begun := time.Now()
	for range 10 {
		p.dev.Maintain(t.Context())
		p.sync("")
		_, err := p.trySend(room, "not confirmed")
		wantErr(t, "the send", err, e2ee.ErrSignatureNotShown)
	}
	took := time.Since(begun)
	if n := uploadsOf(p.hs, p.UserID, "BOT") - before; n > 2+int(took/(5*time.Second)) {
		t.Errorf("%d uploads of the signature in %s", n, took)
	}
	got := problems(status(t, p.dev))
	if !got["signature_not_shown"] || got["setting_up"] || got["device_not_signed"] {
		t.Errorf("status says %v", got)
	}
	await(t, "it does not warn", func() bool { return warningCodes(t, p.dev)["device_not_signed"].ID != "" })
	settle(t, p.dev)
	before = uploadsOf(p.hs, p.UserID, "BOT")
	wantErr(t, "the recovery", p.dev.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, p.dev)}), e2ee.ErrSignatureNotShown)
	// None, if what was being tried again at that moment was told so first.
	if n := uploadsOf(p.hs, p.UserID, "BOT") - before; n > 1 {
		t.Errorf("%d uploads by one recovery", n)
	}
}

// Both of what is named works: another device ID, and a new identity.
func TestWhatHelpsAgainstAnOldSignature(t *testing.T) {
	t.Parallel()
	t.Run("another device ID", func(t *testing.T) {
		t.Parallel()
		p, room, _ := sameDeviceAgain(t)
		key := recoveryKey(t, p.dev)
		p.Session = p.hs.Login("alice", "OTHER")
		p.dev = p.rig.device(p.Session)
		if err := p.dev.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
			t.Fatal(err)
		}
		p.send(room, "confirmed")
	})
	t.Run("a new identity", func(t *testing.T) {
		t.Parallel()
		p, room, _ := sameDeviceAgain(t)
		if _, err := p.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")}); err != nil {
			t.Fatal(err)
		}
		p.send(room, "confirmed")
		if got := problems(status(t, p.dev)); got["signature_not_shown"] {
			t.Errorf("status says %v", got)
		}
	})
}

// A homeserver that is only slow to show the signature is no such homeserver: it is looked
// for again before anything is said, and one that shows it later still is believed then.
func TestSignatureThatShowsLate(t *testing.T) {
	t.Parallel()
	for name, queries := range map[string]int32{"at once": 2, "later": 9} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			first := newPerson(t, hs, "alice", "FIRST")
			s := hs.Login("alice", "SECOND")
			d := newRig(t, hs, nil).device(s)
			settle(t, d)
			var signed atomic.Bool
			var left atomic.Int32
			left.Store(queries)
			hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "signatures/upload$")), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
				signed.Store(true)
				return next()
			})
			hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/query$")), liar.Edit(func(r *liar.Request, body map[string]any) {
				if r.DeviceID != "SECOND" || !signed.Load() || left.Add(-1) < 0 {
					return
				}
				dev := body["device_keys"].(map[string]any)[s.UserID].(map[string]any)["SECOND"].(map[string]any)
				all := dev["signatures"].(map[string]any)[s.UserID].(map[string]any)
				for by := range all {
					if by != "ed25519:SECOND" {
						delete(all, by)
					}
				}
			}))
			err := d.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, first.dev)})
			if name == "at once" && err != nil {
				t.Errorf("the recovery: %v", err)
			}
			if name == "later" {
				wantErr(t, "the recovery", err, e2ee.ErrSignatureNotShown)
			}
			await(t, "the device does not get in order", func() bool {
				s := status(t, d)
				return inOrder(s) && !problems(s)["signature_not_shown"]
			})
		})
	}
}

// A homeserver that keeps refusing the device's keys is no setting up for ever: status says
// so, sends do, it is not asked with every sync, and once it takes them all is well.
func TestHomeserverKeepsRefusingKeys(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	s := hs.Login("alice", "ALICE")
	uploads := liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/upload$"))
	undo := hs.Intercept(uploads, liar.Fail(http.StatusBadRequest, "M_INVALID_PARAM"))
	r := newRig(t, hs, nil)
	d := r.device(s)
	await(t, "status does not say that the keys are refused", func() bool {
		d.Maintain(t.Context())
		got := problems(status(t, d))
		return got["keys_refused"] && !got["setting_up"]
	})
	before := len(hs.Requests(uploads))
	for range 10 {
		d.Maintain(t.Context())
		_, err := d.Encrypt(t.Context(), e2ee.Outgoing{
			RoomID: "!room:liar.test", Type: "m.room.message", TxnID: "t", Content: []byte(`{"msgtype":"m.text","body":"x"}`),
		})
		wantErr(t, "the send", err, e2ee.ErrKeysRefused)
	}
	if n := len(hs.Requests(uploads)) - before; n > 1 {
		t.Errorf("%d more uploads", n)
	}
	undo()
	r.later(time.Hour)
	d.Maintain(t.Context())
	ready(t, d)
	if got := problems(status(t, d)); got["keys_refused"] {
		t.Errorf("status says %v", got)
	}
}
