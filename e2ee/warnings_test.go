package e2ee_test

import (
	"regexp"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

func (p *person) reset() {
	p.t.Helper()
	localpart := id.UserID(p.UserID).Localpart()
	if _, err := p.dev.Reset(p.t.Context(), e2ee.UserAuth{Password: secret.NewString("password of " + localpart)}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) master() id.Ed25519 {
	return id.Ed25519(p.hs.CrossSigningKey(p.UserID, "master"))
}

// pair is two people in an encrypted room who have talked.
func pair(t *testing.T) (alice, bob *person, room string) {
	t.Helper()
	hs := liar.New(t)
	alice, bob = newPerson(t, hs, "alice", "FIRST"), newPerson(t, hs, "bob", "BOBS")
	room = alice.newRoom(bob)
	alice.send(room, "hello")
	return alice, bob, room
}

// Somebody's identity is reset: a waiting sync ends at once with a warning that names the
// rooms, sending waits, dismissing the warning changes nothing about that, and a second
// reset is a warning of its own (requirement 1.10).
func TestIdentityChangedWarning(t *testing.T) {
	t.Parallel()
	alice, bob, room := pair(t)
	_, since := alice.sync("")
	parked, err := alice.dev.BeginSync(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	defer parked.End()
	bob.reset()
	alice.sync(since) // another of the client's syncs brings the change
	await(t, "the waiting sync does not end", func() bool {
		select {
		case <-parked.Arrived().Done():
			return true
		default:
			return false
		}
	})
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["identity_changed"].ID != "" })
	await(t, "the room is not named", func() bool {
		rooms := warningCodes(t, alice.dev)["identity_changed"].RoomIDs
		return len(rooms) == 1 && rooms[0] == id.RoomID(room)
	})
	extras, _ := alice.sync("")
	if len(extras.Warnings) != 1 || extras.Warnings[0].Code != "identity_changed" {
		t.Errorf("warnings in a sync: %+v", extras.Warnings)
	}
	first := warningCodes(t, alice.dev)["identity_changed"]
	var changed *e2ee.IdentityChangedError
	if _, err := alice.trySend(room, "during"); !errorAs(err, &changed) {
		t.Errorf("a send: %v", err)
	}
	if err := alice.dev.DismissWarning(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if codes := warningCodes(t, alice.dev); len(codes) != 0 {
		t.Errorf("after dismissing: %+v", codes)
	}
	wantErr(t, "dismissing it again", alice.dev.DismissWarning(t.Context(), first.ID), e2ee.ErrUnknownWarning)
	if _, err := alice.trySend(room, "still held up"); !errorAs(err, &changed) {
		t.Errorf("a send after dismissing: %v", err)
	}
	alice.restart()
	if codes := warningCodes(t, alice.dev); len(codes) != 0 {
		t.Errorf("after a restart: %+v", codes)
	}
	bob.reset()
	await(t, "no second warning", func() bool {
		again := warningCodes(t, alice.dev)["identity_changed"]
		return again.ID != "" && again.ID != first.ID
	})
	wantErr(t, "an old ID", alice.dev.DismissWarning(t.Context(), first.ID), e2ee.ErrUnknownWarning)
	if err := alice.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), bob.master()); err != nil {
		t.Fatal(err)
	}
	if codes := warningCodes(t, alice.dev); len(codes) != 0 {
		t.Errorf("after acknowledging: %+v", codes)
	}
	alice.send(room, "after")
}

// A verified user's reset has other words, and only withdrawing or verifying again ends it.
func TestVerificationLostWarning(t *testing.T) {
	t.Parallel()
	alice, bob, room := pair(t)
	if err := alice.dev.Verify(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	bob.reset()
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["verification_lost"].ID != "" })
	codes := warningCodes(t, alice.dev)
	if len(codes) != 1 || !regexp.MustCompile(`^WARNING: @bob:liar.test's digital identity was reset!`).MatchString(codes["verification_lost"].Message) {
		t.Errorf("warnings: %+v", codes)
	}
	wantErr(t, "acknowledging", alice.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), bob.master()), e2ee.ErrVerificationLost)
	if err := alice.dev.Verify(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	if codes := warningCodes(t, alice.dev); len(codes) != 0 {
		t.Errorf("after verifying again: %+v", codes)
	}
	alice.send(room, "after")
}

// For an account that nobody watches the change is accepted, and told and counted all the
// same; never that of a user who was verified.
func TestAutomaticAcknowledgement(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	bot := &person{t: t, hs: hs, Session: hs.Login("bot", "BOT")}
	bot.rig = newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{AcknowledgeUnverified: true} }
	})
	bot.dev = bot.rig.device(bot.Session)
	ready(t, bot.dev)
	bob := newPerson(t, hs, "bob", "BOBS")
	room := bot.newRoom(bob)
	bot.send(room, "before")
	bob.reset()
	await(t, "no warning", func() bool { return warningCodes(t, bot.dev)["identity_changed"].ID != "" })
	bot.send(room, "after")
	if err := bot.dev.Verify(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	bob.reset()
	await(t, "no warning", func() bool { return warningCodes(t, bot.dev)["verification_lost"].ID != "" })
	var changed *e2ee.IdentityChangedError
	if _, err := bot.trySend(room, "held up"); !errorAs(err, &changed) {
		t.Errorf("a send to a user who was verified: %v", err)
	}
}

// Another device of the user that is not confirmed is told, by name, until it is gone or
// confirmed (requirements 1.6, 26.1).
func TestOwnUnsignedDeviceWarning(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	other := &person{rig: newRig(t, hs, nil), Session: hs.Login("alice", "OTHER")}
	other.dev = other.rig.device(other.Session)
	settle(t, other.dev)
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["device_not_signed"].ID != "" })
	w := warningCodes(t, alice.dev)["device_not_signed"]
	if !regexp.MustCompile(`\bOTHER\b`).MatchString(w.Message) {
		t.Errorf("the warning: %+v", w)
	}
	s := status(t, alice.dev)
	if len(s.OtherDevices) != 1 || s.OtherDevices[0].Signed || !problems(s)["other_devices_not_signed"] {
		t.Errorf("status: %+v", s)
	}
	key, err := alice.dev.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.dev.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	await(t, "the warning stays", func() bool { return len(warningCodes(t, alice.dev)) == 0 })
	if s := status(t, alice.dev); !s.OtherDevices[0].Signed || len(s.Problems) != 0 {
		t.Errorf("status: %+v", s)
	}
}
