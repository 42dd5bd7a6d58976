package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/crypto/signatures"

	"e2ee-proxy/internal/strictjson"
)

// specKey is the signing key of the spec's test vectors (appendices, "Cryptographic Test
// Vectors"), and specPublic what belongs to it.
func specKey(t *testing.T) *pk.Signing {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pk.NewSigningFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

const specPublic = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"

// What is signed of an object (appendices, "Signing JSON", "Canonical JSON" with its
// examples): everything but signatures and unsigned, at the top only, with sorted names and
// no white space. What two readers could read differently is not signed at all.
func TestSignable(t *testing.T) {
	t.Parallel()
	for object, want := range map[string]string{
		`{}`:                                    `{}`,
		"{\n \"one\": 1,\n \"two\": \"Two\"\n}": `{"one":1,"two":"Two"}`,
		`{"b": "2", "a": "1"}`:                  `{"a":"1","b":"2"}`,
		`{"a": "日本語"}`:                          `{"a":"日本語"}`,
		`{"本": 2, "日": 1}`:                      `{"日":1,"本":2}`,
		`{"a": "\u65E5"}`:                       `{"a":"日"}`,
		`{"a": null}`:                           `{"a":null}`,
		`{"auth":{"success":true,"mxid":"@a:x"},"z":[3,2,{"y":1,"x":2}]}`:         `{"auth":{"mxid":"@a:x","success":true},"z":[3,2,{"x":2,"y":1}]}`,
		`{"signatures":{"x":{}},"unsigned":{},"a":{"signatures":1,"unsigned":2}}`: `{"a":{"signatures":1,"unsigned":2}}`,
	} {
		got, err := Signable([]byte(object))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", object, got, err, want)
		}
	}
	for _, object := range []string{``, `null`, `[]`, `"text"`, `{`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, `{"a":1}{}`, "{\"a\":\"\xff\"}"} {
		if got, err := Signable([]byte(object)); err == nil {
			t.Errorf("%q would be signed as %s", object, got)
		}
	}
}

// A signature is added to those that are there, and nothing else of the object changes; what
// is no list of signatures is not overwritten.
func TestAddSignature(t *testing.T) {
	t.Parallel()
	for object, want := range map[string]string{
		`{}`:                               `{"signatures":{"@a:x":{"ed25519:A":"new"}}}`,
		`{"n": 1.0,"signatures":{},"z":2}`: `{"n":1.0,"signatures":{"@a:x":{"ed25519:A":"new"}},"z":2}`,
		`{"signatures":null}`:              `{"signatures":{"@a:x":{"ed25519:A":"new"}}}`,
		`{"signatures":{"@a:x":null}}`:     `{"signatures":{"@a:x":{"ed25519:A":"new"}}}`,
		`{"signatures":{"@a:x":{"ed25519:A":"old","ed25519:B":"b"}}}`: `{"signatures":{"@a:x":{"ed25519:A":"new","ed25519:B":"b"}}}`,
		`{"signatures":{"@b:x":{"ed25519:A":"b"}}}`:                   `{"signatures":{"@a:x":{"ed25519:A":"new"},"@b:x":{"ed25519:A":"b"}}}`,
	} {
		got, err := AddSignature(json.RawMessage(object), "@a:x", "ed25519:A", "new")
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", object, got, err, want)
		}
	}
	for _, object := range []string{``, `[]`, `{"a":1,"a":1}`, `{"signatures":"mine"}`, `{"signatures":["@a:x"]}`, `{"signatures":{"@a:x":"sig"}}`, `{"signatures":{"@a:x":{"ed25519:A":7}}}`} {
		if got, err := AddSignature(json.RawMessage(object), "@a:x", "ed25519:A", "new"); !errors.Is(err, strictjson.ErrMalformed) {
			t.Errorf("%q became %s, %v", object, got, err)
		}
	}
}

// A key signs under its own name, and what it signs is what others verify; after any change
// of the object they do not.
func TestSignWith(t *testing.T) {
	t.Parallel()
	key := specKey(t)
	if key.PublicKey() != specPublic {
		t.Fatalf("the public key is %s", key.PublicKey())
	}
	// The spec's second vector, under the name that a cross-signing key has.
	got, err := SignWith(json.RawMessage(`{"one":1,"two":"Two"}`), "@a:x", key)
	if err != nil {
		t.Fatal(err)
	}
	const sig = "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
	if want := `{"one":1,"two":"Two","signatures":{"@a:x":{"ed25519:` + specPublic + `":"` + sig + `"}}}`; string(got) != want {
		t.Errorf("signed:\n%s\nwant\n%s", got, want)
	}
	signed := func() strictjson.Object {
		obj, err := strictjson.Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
	for name, tc := range map[string]struct {
		object strictjson.Object
		want   bool
	}{
		"as it was signed":   {signed(), true},
		"with unsigned data": {signed().Set("unsigned", json.RawMessage(`{"a":1}`)), true},
		"with more":          {signed().Set("three", json.RawMessage(`3`)), false},
		"with less":          {signed().Without("one"), false},
		"with another value": {signed().Set("one", json.RawMessage(`2`)), false},
	} {
		ok, err := signatures.VerifySignatureJSON(tc.object.Encode(), "@a:x", specPublic, specPublic)
		if ok != tc.want {
			t.Errorf("%s: verified %v, %v", name, ok, err)
		}
	}
	for _, object := range []string{`[]`, `{"a":1,"a":1}`, `{"signatures":7}`} {
		if got, err := SignWith(json.RawMessage(object), "@a:x", key); err == nil {
			t.Errorf("%s was signed: %s", object, got)
		}
	}
}

// What is canonical stays as it is, whatever was signed of it before.
func FuzzSignable(f *testing.F) {
	f.Add([]byte(`{"b":1,"a":{"d":"\u00e9","c":[1,2]},"signatures":{},"unsigned":{}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		once, err := Signable(object)
		if err != nil {
			return
		}
		again, err := Signable(once)
		if err != nil || string(again) != string(once) {
			t.Fatalf("%q: %q, and then %q, %v", object, once, again, err)
		}
		canonical := json.RawMessage(once)
		if err := canonicaljson.Canonicalize(&canonical); err != nil || string(canonical) != string(once) {
			t.Fatalf("%q: %q is not canonical, %v", object, once, err)
		}
	})
}
