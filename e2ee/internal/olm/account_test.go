package olm

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

func newTestAccount(t *testing.T) *Account {
	t.Helper()
	a, err := NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What our key agreement begins, goolm's goes on with, in both directions.
func TestNewOutboundIsOlm(t *testing.T) {
	t.Parallel()
	alice, bob := newTestAccount(t), newTestAccount(t)
	if err := bob.GenOneTimeKeys(1); err != nil {
		t.Fatal(err)
	}
	out, err := alice.NewOutbound(bob.Curve25519, bob.OTKeys[0].Key.B64Encoded())
	if err != nil {
		t.Fatal(err)
	}
	kind, body, err := out.Encrypt([]byte("hello"))
	if err != nil || kind != id.OlmMsgTypePreKey {
		t.Fatal(kind, err)
	}
	in, err := bob.newInbound(alice.Curve25519, string(body))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := in.Decrypt(string(body), kind); err != nil || string(plain) != "hello" {
		t.Fatalf("%q, %v", plain, err)
	}
	if in.ID() != out.ID() {
		t.Errorf("the sides call the session %s and %s", in.ID(), out.ID())
	}
	kind, body, err = in.Encrypt([]byte("hello to you"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := out.Decrypt(string(body), kind); err != nil || string(plain) != "hello to you" {
		t.Errorf("%q, %v", plain, err)
	}
}

// Keys that leave no secret, because everybody knows the result, and keys that are none.
func TestNewOutboundRefusesBadKeys(t *testing.T) {
	t.Parallel()
	alice, bob := newTestAccount(t), newTestAccount(t)
	zero := id.Curve25519(strings.Repeat("A", 43))
	for _, pair := range [][2]id.Curve25519{
		{zero, bob.Curve25519}, {bob.Curve25519, zero}, {bob.Curve25519, ""}, {"", bob.Curve25519},
		{bob.Curve25519, bob.Curve25519[:40]}, {"not base64", bob.Curve25519},
	} {
		if s, err := alice.NewOutbound(pair[0], pair[1]); err == nil {
			t.Errorf("%v made session %s", pair, s.ID())
		}
	}
}
