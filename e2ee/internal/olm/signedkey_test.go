package olm

import (
	"encoding/json"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/crypto"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// What is uploaded for a one-time key and a fallback key, byte by byte, and that what is
// signed is the canonical JSON of it (Client-Server API, "Key algorithms"). In any order but the
// alphabetical one Synapse (1.163.2) forgets that the fallback key was given out.
func TestSignedKeys(t *testing.T) {
	t.Parallel()
	a := newTestAccount(t)
	if err := a.GenOneTimeKeys(1); err != nil {
		t.Fatal(err)
	}
	if err := a.GenFallbackKey(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name              string
		key               *crypto.OneTimeKey
		fallback          bool
		members, signable string
	}{
		{"one-time key", &a.OTKeys[0], false, `"key":"KEY"`, `{"key":"KEY"}`},
		{"fallback key", &a.CurrentFallbackKey, true, `"fallback":true,"key":"KEY"`, `{"fallback":true,"key":"KEY"}`},
	} {
		signed, err := a.signedKey(test.key, "@alice:hs", "ALICE", test.fallback)
		if err != nil {
			t.Fatal(err)
		}
		named := func(s string) string { return strings.Replace(s, "KEY", string(test.key.Key.B64Encoded()), 1) }
		signature, err := a.Sign([]byte(named(test.signable)))
		if err != nil {
			t.Fatal(err)
		}
		want := `{` + named(test.members) + `,"signatures":{"@alice:hs":{"ed25519:ALICE":"` + string(signature) + `"}}}`
		if string(signed) != want {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, signed, want)
		}
	}
}

// A member is set without a change to a byte of the others: numbers that no float holds,
// escapes and white space inside values, and the order stay. A signature over the others
// would be worth nothing otherwise.
func TestSetLeavesTheRest(t *testing.T) {
	t.Parallel()
	const before = `{"z":{"b" : 1.0, "a":[1e3,  -0]},"big":12345678901234567890,"esc":"\u00e9\/\n","raw":"é<>&","signatures":{"@b:hs":{"ed25519:B":"sig"}}`
	obj, err := strictjson.Parse([]byte(before + `}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(obj.Set("fallback", json.RawMessage("true")).Encode()), before+`,"fallback":true}`; got != want {
		t.Errorf("added:\n%s\nwant\n%s", got, want)
	}
	signed, err := wire.AddSignature(json.RawMessage(before+`}`), "@a:hs", "ed25519:A", "mine")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(before, `{"@b:hs"`, `{"@a:hs":{"ed25519:A":"mine"},"@b:hs"`, 1) + `}`
	if string(signed) != want {
		t.Errorf("signed:\n%s\nwant\n%s", signed, want)
	}
	// What others sign is what was there before the signature came.
	one, err := wire.Signable(json.RawMessage(`{"key":"k"}`))
	if err != nil {
		t.Fatal(err)
	}
	two, err := wire.AddSignature(one, "@a:hs", "ed25519:A", "mine")
	if err != nil {
		t.Fatal(err)
	}
	again, err := wire.Signable(two)
	if err != nil {
		t.Fatal(err)
	}
	if string(again) != string(one) {
		t.Errorf("what is signed is %s, and then %s", one, again)
	}
}
