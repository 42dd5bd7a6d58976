package olm

import (
	"bytes"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

// A session that was prepared before its one-time key was known is one as any other: goolm goes on
// with it. What was prepared is used once, for the device that it was prepared for.
func TestPreparedSessions(t *testing.T) {
	t.Parallel()
	alice, bob, carol := newTestAccount(t), newTestAccount(t), newTestAccount(t)
	if err := bob.GenOneTimeKeys(3); err != nil {
		t.Fatal(err)
	}
	zero := id.Curve25519(strings.Repeat("A", 43))
	alice.Prepare([]id.Curve25519{zero, "none", bob.Curve25519, carol.Curve25519}, func() bool { return false })
	if n := len(alice.prepared.all); n != 2 {
		t.Fatalf("%d sessions are prepared", n)
	}
	ready := alice.prepared.all[bob.Curve25519].base.PublicKey().Bytes()
	bases := make(map[string]bool)
	for i := range 3 {
		out, err := alice.Clone().NewOutbound(bob.Curve25519, bob.OTKeys[i].Key.B64Encoded())
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Equal(out.AliceBaseKey, ready); got != (i == 0) {
			t.Errorf("session %d is the one that was prepared: %v", i, got)
		}
		bases[string(out.AliceBaseKey)] = true
		kind, body, err := out.Encrypt([]byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		in, err := bob.newInbound(alice.Curve25519, string(body))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := in.Decrypt(string(body), kind); err != nil || string(plain) != "hello" || in.ID() != out.ID() {
			t.Fatalf("%q, %v", plain, err)
		}
	}
	if len(bases) != 3 {
		t.Error("a base key was used twice")
	}
	left := alice.prepared.all[carol.Curve25519].agreement
	alice.DropPrepared()
	if len(alice.prepared.all) != 0 || !bytes.Equal(left, make([]byte, keySize)) {
		t.Error("what was not used is still there")
	}
}

// A key of which everybody knows the result is refused as one-time key also for a session that was
// prepared, and no more is prepared than there is time for.
func TestPreparedSessionsWithBadKeys(t *testing.T) {
	t.Parallel()
	alice, bob := newTestAccount(t), newTestAccount(t)
	for _, once := range []id.Curve25519{id.Curve25519(strings.Repeat("A", 43)), "", bob.Curve25519[:40]} {
		alice.Prepare([]id.Curve25519{bob.Curve25519}, func() bool { return false })
		if s, err := alice.NewOutbound(bob.Curve25519, once); err == nil {
			t.Errorf("%q made session %s", once, s.ID())
		}
	}
	times := 0
	alice.Prepare([]id.Curve25519{bob.Curve25519, alice.Curve25519}, func() bool { times++; return times > 1 })
	if len(alice.prepared.all) != 1 {
		t.Errorf("%d sessions are prepared", len(alice.prepared.all))
	}
}
