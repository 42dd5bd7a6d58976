package e2ee_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

const backupSecret = "m.megolm_backup.v1"

// withoutBackupKey returns a second device of alice's that has the identity and lacks the
// backup's key: secret storage did not hold it.
func withoutBackupKey(t *testing.T, hs *liar.Server, first *person) *person {
	t.Helper()
	// The first device would put it back at once.
	remove := hs.Intercept(liar.Of(first.UserID, liar.Is(http.MethodPut, "account_data/"+backupSecret)), func(r *liar.Request, pass func() liar.Reply) liar.Reply {
		if string(r.Body) == "{}" {
			return pass()
		}
		return liar.OK(map[string]any{})
	})
	setAccountData(t, hs, first.Session, backupSecret, map[string]any{})
	t.Cleanup(remove)
	return recovered(t, hs, first, "SECOND", false)
}

// A device that lacks a secret asks the user's other confirmed devices, in the clear; one
// answers over Olm; the key fits the backup and is taken; the others are told that it is
// done (requirements 15.1 to 15.4).
func TestSecretIsShared(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	third := recovered(t, hs, alice, "THIRD", false)
	// The third is slow: what it is sent is not read.
	gate := liar.NewGate()
	defer gate.Open()
	third.rig.stop()
	second := withoutBackupKey(t, hs, alice)
	await(t, "the backup's key does not come", func() bool {
		s := status(t, second.dev)
		return s.Backup.Readable && s.Backup.Trusted
	})
	mine, err := alice.dev.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := second.dev.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if mine[backupSecret] != theirs[backupSecret] {
		t.Error("it has another key")
	}
	await(t, "it still asks", func() bool { return len(second.dev.AskedFor()) == 0 })
	if hs.PlaintextSeen(mine[backupSecret]) || hs.PlaintextSeen(mine["m.cross_signing.master"]) {
		t.Error("a secret went over the wire in the clear")
	}
	await(t, "the other device is not told that it is done", func() bool {
		for _, r := range hs.Requests(liar.Of(second.UserID, liar.Is(http.MethodPut, "sendToDevice/m.secret.request"))) {
			if strings.Contains(string(r.Body), "request_cancellation") && strings.Contains(string(r.Body), "THIRD") {
				return true
			}
		}
		return false
	})
}

// asking returns a second device that waits for the backup's key, which nobody answers, and
// the ID of its request.
func asking(t *testing.T) (hs *liar.Server, alice, second *person, request string) {
	t.Helper()
	hs = liar.New(t)
	alice = newPerson(t, hs, "alice", "FIRST")
	hs.Intercept(liar.Is(http.MethodPut, "sendToDevice/m.secret.request"), func(*liar.Request, func() liar.Reply) liar.Reply {
		return liar.OK(map[string]any{})
	})
	second = withoutBackupKey(t, hs, alice)
	await(t, "nothing is asked for", func() bool {
		request = second.dev.AskedFor()[backupSecret]
		return request != ""
	})
	return hs, alice, second, request
}

func answer(request, secret string) json.RawMessage {
	raw, _ := json.Marshal(map[string]string{"request_id": request, "secret": secret}) //nolint:errchkjson // two strings
	return raw
}

// hasBackupKey reports whether the device took a key, or keeps one to look at.
func hasBackupKey(t *testing.T, d *e2ee.Device) bool {
	t.Helper()
	secrets, err := d.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return secrets[backupSecret] != ""
}

// processed waits until everything that was sent to a device has had its effect.
func (p *person) processed() {
	p.t.Helper()
	if err := p.dev.SyncNow(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.dev.Maintain(p.t.Context())
}

// Attack A13: secrets that nobody asked for, under another's request, from somebody else,
// in the clear, or that do not fit the published keys. None is taken; the right one,
// afterwards, is.
func TestUnwantedSecretsAreRefused(t *testing.T) {
	t.Parallel()
	hs, alice, second, request := asking(t)
	mine, err := alice.dev.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	right := mine[backupSecret]
	bob := newPerson(t, hs, "bob", "BOBS")
	send := func(from *person, content json.RawMessage) {
		t.Helper()
		if err := from.dev.SendOlm(t.Context(), "m.secret.send", content, idUser(second.UserID), id.DeviceID(second.DeviceID)); err != nil {
			t.Fatal(err)
		}
		second.processed()
	}
	refuse := func(what string) {
		t.Helper()
		if hasBackupKey(t, second.dev) {
			t.Fatalf("%s was taken", what)
		}
		if second.dev.AskedFor()[backupSecret] != request {
			request = second.dev.AskedFor()[backupSecret]
		}
		if request == "" {
			t.Fatalf("after %s it does not ask any more", what)
		}
	}
	send(alice, answer("another request", right))
	refuse("a secret that nobody asked for")
	send(bob, answer(request, right))
	refuse("a secret of another user")
	send(alice, answer(request, strings.Repeat("!", 43)))
	refuse("a secret that is no base64")
	send(alice, answer(request, strings.Repeat("A", 5000)))
	refuse("a secret that is too long")
	hs.SendToDevice(second.UserID, second.DeviceID, alice.UserID, "m.secret.send", map[string]string{"request_id": request, "secret": right})
	second.processed()
	refuse("a secret in the clear")
	send(alice, answer(request, mine["m.cross_signing.master"]))
	await(t, "it does not ask again", func() bool { return second.dev.AskedFor()[backupSecret] != "" })
	request = second.dev.AskedFor()[backupSecret]
	refuse("a key of another backup")
	send(alice, answer(request, right))
	await(t, "the right key is not taken", func() bool { return hasBackupKey(t, second.dev) })
	send(alice, answer(request, mine["m.cross_signing.master"]))
	if secrets, err := second.dev.Secrets(t.Context()); err != nil || secrets[backupSecret] != right {
		t.Error("a late answer replaced the key")
	}
}

// Attack A13: a device that the identity has not confirmed asks, or another user does, or
// the homeserver makes a request up. Nobody gets anything; a flood of requests costs one
// answer.
func TestSecretsGoToConfirmedDevicesOnly(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	bob := newPerson(t, hs, "bob", "BOBS")
	stranger := &person{rig: newRig(t, hs, nil), Session: hs.Login("alice", "STRANGER")}
	stranger.dev = stranger.rig.device(stranger.Session)
	settle(t, stranger.dev)
	ask := func(sender, device, request, name string) {
		hs.SendToDevice(alice.UserID, "FIRST", sender, "m.secret.request", map[string]string{
			"action": "request", "name": name, "request_id": request, "requesting_device_id": device,
		})
	}
	sent := func() int {
		alice.processed()
		return len(hs.Requests(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/m.room.encrypted"))))
	}
	before := sent()
	ask(alice.UserID, "STRANGER", "1", "m.cross_signing.master")
	ask(bob.UserID, "BOBS", "2", "m.cross_signing.master")
	ask(alice.UserID, "BOBS", "3", "m.cross_signing.master")
	ask(alice.UserID, "NOBODY", "4", "m.cross_signing.master")
	ask(alice.UserID, "FIRST", "5", "m.cross_signing.master")
	if after := sent(); after != before {
		t.Fatalf("%d messages went out", after-before)
	}
	if err := stranger.dev.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, alice.dev)}); err != nil {
		t.Fatal(err)
	}
	await(t, "the device is not known to be confirmed", func() bool {
		own, err := alice.dev.Own(t.Context())
		return err == nil && own.Device("STRANGER").Signed
	})
	ask(alice.UserID, "STRANGER", "6", "recovery_key")
	if after := sent(); after != before {
		t.Fatalf("a secret of the proxy's own was given out")
	}
	for i := range 200 {
		ask(alice.UserID, "STRANGER", "7"+strings.Repeat("x", i), "m.cross_signing.master")
	}
	if after := sent(); after != before+1 {
		t.Errorf("a flood of requests made %d messages, want 1", after-before)
	}
}

// A request that is taken back before it was answered is not answered.
func TestCancelledRequestIsNotAnswered(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	second := recovered(t, hs, alice, "SECOND", false)
	ready(t, second.dev)
	before := len(hs.Requests(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/m.room.encrypted"))))
	sync, err := alice.dev.BeginSync(t.Context(), "") // the proxy's own sync stands still
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"request", "request_cancellation"} {
		hs.SendToDevice(alice.UserID, "FIRST", alice.UserID, "m.secret.request", map[string]string{
			"action": action, "name": "m.cross_signing.master", "request_id": "r", "requesting_device_id": "SECOND",
		})
	}
	sync.End()
	alice.processed()
	if after := len(hs.Requests(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/m.room.encrypted")))); after != before {
		t.Errorf("%d messages went out", after-before)
	}
}

// A backup that only a confirmed device of the user has signed is the account's own too
// (requirement 16.1): keys are written to it while its key is waited for. A signature of
// a device that is not confirmed says nothing.
func TestBackupSignedByADevice(t *testing.T) {
	t.Parallel()
	for signer, trusted := range map[string]bool{"FIRST": true, "STRANGER": false} {
		hs := liar.New(t)
		alice := newPerson(t, hs, "alice", "FIRST")
		stranger := newRig(t, hs, nil).device(hs.Login("alice", "STRANGER"))
		settle(t, stranger)
		by := map[string]*e2ee.Device{"FIRST": alice.dev, "STRANGER": stranger}[signer]
		hs.Intercept(liar.Is(http.MethodGet, "room_keys/version$"), liar.Edit(func(_ *liar.Request, body map[string]any) {
			auth := body["auth_data"].(map[string]any)
			delete(auth, "signatures")
			signed, err := by.SignJSON(auth)
			if err != nil {
				t.Error(err)
			}
			body["auth_data"] = signed
		}))
		hs.Intercept(liar.Is(http.MethodPut, "sendToDevice/m.secret.request"), func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.OK(map[string]any{})
		})
		second := withoutBackupKey(t, hs, alice)
		if s := status(t, second.dev); s.Backup.Trusted != trusted || s.Backup.Readable {
			t.Errorf("signed by %s: %+v", signer, s.Backup)
		}
	}
}

// Where the configuration says that requests for secrets are ignored, a confirmed device
// that would be answered otherwise gets nothing (requirement 15.5).
func TestSecretRequestsAreIgnored(t *testing.T) {
	t.Parallel()
	for _, ignore := range []bool{false, true} {
		hs := liar.New(t)
		alice := &person{t: t, hs: hs, Session: hs.Login("alice", "FIRST"), rig: newRig(t, hs, func(o *e2ee.Options) {
			o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{IgnoreSecretRequests: ignore} }
		})}
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		recovered(t, hs, alice, "SECOND", false)
		await(t, "the second device is not known to be confirmed", func() bool {
			own, err := alice.dev.Own(t.Context())
			return err == nil && own.Device("SECOND") != nil && own.Device("SECOND").Signed
		})
		sent := func() int {
			alice.processed()
			return len(hs.Requests(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/m.room.encrypted"))))
		}
		before := sent()
		hs.SendToDevice(alice.UserID, "FIRST", alice.UserID, "m.secret.request", map[string]string{
			"action": "request", "name": "m.cross_signing.master", "request_id": "r", "requesting_device_id": "SECOND",
		})
		if after, want := sent(), map[bool]int{false: 1, true: 0}[ignore]; after-before != want {
			t.Errorf("ignored %v: %d messages went out, want %d", ignore, after-before, want)
		}
	}
}
