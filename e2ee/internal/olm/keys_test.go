package olm

import (
	"bytes"
	"crypto/ecdh"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// keyIDs returns the IDs of an account's one-time keys, in order.
func keyIDs(a *Account) (ids []uint32) {
	for i := range a.OTKeys {
		ids = append(ids, a.OTKeys[i].ID)
	}
	return ids
}

func unpublished(t *testing.T, a *Account) map[string]json.RawMessage {
	t.Helper()
	keys, err := a.Unpublished("@alice:x", "ALICE")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func unpublishedFallback(t *testing.T, a *Account) map[string]json.RawMessage {
	t.Helper()
	keys, err := a.UnpublishedFallback("@alice:x", "ALICE")
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// The one-time keys of an account, from their making to their use (requirements 3.1 to 3.8).
// A key ID is used once; only what is not known to be on the homeserver is uploaded; only
// what was uploaded is published, though more was made meanwhile; the oldest go first.
func TestOneTimeKeysOfAnAccount(t *testing.T) {
	t.Parallel()
	a := newTestAccount(t)
	if err := a.MakeOneTimeKeys(3); err != nil {
		t.Fatal(err)
	}
	first := unpublished(t, a)
	if len(first) != 3 {
		t.Fatalf("%d keys are uploaded", len(first))
	}
	for name, raw := range first {
		if !strings.HasPrefix(name, "signed_curve25519:") || strings.Contains(string(raw), "fallback") {
			t.Errorf("%s: %s", name, raw)
		}
		if ok, err := signatures.VerifySignatureJSON(raw, "@alice:x", "ALICE", a.Ed25519); err != nil || !ok {
			t.Errorf("%s is not signed: %v", name, err)
		}
	}
	if err := a.MakeOneTimeKeys(2); err != nil { // while the first are under way
		t.Fatal(err)
	}
	a.MarkPublished(first, nil)
	second := unpublished(t, a)
	if len(second) != 2 {
		t.Errorf("%d keys are left to upload", len(second))
	}
	for name := range second {
		if first[name] != nil {
			t.Errorf("%s is uploaded twice", name)
		}
	}
	if ids := keyIDs(a); !slices.IsSortedFunc(ids, func(x, y uint32) int { return int(y) - int(x) }) {
		t.Errorf("the newest are not first: %v", ids)
	}
	used := a.OTKeys[3].Key.PublicKey
	before := keyIDs(a)
	a.RemoveOneTimeKey(used)
	a.RemoveOneTimeKey(used)
	if got, want := keyIDs(a), slices.Delete(before, 3, 4); !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

// However many keys a homeserver asks for, an account keeps a number of them, the newest; and
// no key that it made before is named again.
func TestOneTimeKeysAreBounded(t *testing.T) {
	t.Parallel()
	a := newTestAccount(t)
	seen := make(map[uint32]bool)
	for range 6 {
		if err := a.MakeOneTimeKeys(OneTimeKeysWanted); err != nil {
			t.Fatal(err)
		}
		for _, id := range keyIDs(a)[:OneTimeKeysWanted] {
			if seen[id] {
				t.Fatalf("key %d was made twice", id)
			}
			seen[id] = true
		}
	}
	ids := keyIDs(a)
	if len(ids) != maxOneTimeKeys || ids[0] < ids[len(ids)-1] || ids[0] != slices.Max(slices.Collect(maps.Keys(seen))) {
		t.Errorf("%d keys are kept, from %d to %d", len(ids), ids[0], ids[len(ids)-1])
	}
}

// Attack: a homeserver refuses each upload and keeps its keys (as Dendrite does), or refuses
// without end so that the keys it accepted are pushed out.
//
// Expected: keys of a refused upload are kept, since they may be handed out, and are not
// uploaded again; later ones have names that the homeserver cannot have; those accepted stay.
func TestRefusedOneTimeKeys(t *testing.T) {
	t.Parallel()
	a := newTestAccount(t)
	if err := a.MakeOneTimeKeys(OneTimeKeysWanted); err != nil {
		t.Fatal(err)
	}
	accepted := keyIDs(a)
	a.MarkPublished(unpublished(t, a), nil)
	if err := a.GenFallbackKey(); err != nil {
		t.Fatal(err)
	}
	fallback := a.CurrentFallback()
	for round := range 8 {
		if err := a.MakeOneTimeKeys(OneTimeKeysWanted); err != nil {
			t.Fatal(err)
		}
		refused, fallbackID, next := unpublished(t, a), a.CurrentFallbackKey.ID, a.NextOneTimeKeyID
		a.SetAside()
		if len(unpublished(t, a)) != 0 {
			t.Fatalf("round %d: refused keys are uploaded again", round)
		}
		if a.NextOneTimeKeyID < next+RestoredKeyStep || a.CurrentFallbackKey.ID == fallbackID || a.CurrentFallbackKey.ID < next+RestoredKeyStep {
			t.Errorf("round %d: the next key is %d, the fallback key is %d", round, a.NextOneTimeKeyID, a.CurrentFallbackKey.ID)
		}
		if round == 0 && len(a.OTKeys) != 2*OneTimeKeysWanted {
			t.Errorf("of the first %d that were refused %d keys are left", len(refused), len(a.OTKeys)-OneTimeKeysWanted)
		}
		for _, id := range accepted {
			if !slices.Contains(keyIDs(a), id) {
				t.Fatalf("round %d: key %d, which was accepted, is gone", round, id)
			}
		}
	}
	if len(a.OTKeys) > maxOneTimeKeys || a.CurrentFallback() != fallback {
		t.Errorf("%d keys are kept; the fallback key is the same: %v", len(a.OTKeys), a.CurrentFallback() == fallback)
	}
}

// The fallback key says what it is (requirement 3.2), is uploaded once, stays when a session
// is made with it, and is followed by another one.
func TestFallbackKeyOfAnAccount(t *testing.T) {
	t.Parallel()
	a := newTestAccount(t)
	var none *Account
	if a.CurrentFallback() != "" || none.CurrentFallback() != "" || len(unpublishedFallback(t, a)) != 0 || a.UsedFallback(nil) {
		t.Error("a new account has a fallback key")
	}
	// What is said of a key that is not there marks none.
	a.MarkPublished(nil, map[string]json.RawMessage{"signed_curve25519:" + a.CurrentFallbackKey.KeyIDEncoded(): nil})
	if a.CurrentFallbackKey.Published {
		t.Error("no fallback key is published")
	}
	var before id.Curve25519
	for range 2 {
		if err := a.GenFallbackKey(); err != nil {
			t.Fatal(err)
		}
		keys := unpublishedFallback(t, a)
		if len(keys) != 1 || a.CurrentFallback() == before || a.CurrentFallback() == "" {
			t.Fatalf("%d fallback keys are uploaded, %q after %q", len(keys), a.CurrentFallback(), before)
		}
		for name, raw := range keys {
			var key struct {
				Key      id.Curve25519
				Fallback bool
			}
			if json.Unmarshal(raw, &key) != nil || !key.Fallback || key.Key != a.CurrentFallback() || !strings.HasPrefix(name, "signed_curve25519:") {
				t.Errorf("%s: %s", name, raw)
			}
			a.MarkPublished(map[string]json.RawMessage{name: raw}, nil) // a one-time key of that name
			if len(unpublishedFallback(t, a)) != 1 {
				t.Error("the fallback key is taken for a one-time key")
			}
		}
		a.MarkPublished(nil, keys)
		if len(unpublishedFallback(t, a)) != 0 {
			t.Error("the fallback key is uploaded again")
		}
		used := a.CurrentFallbackKey.Key.PublicKey
		if !a.UsedFallback(used) || a.UsedFallback(newTestAccount(t).IdKeys.Curve25519.PublicKey) {
			t.Error("the use of the fallback key is not seen")
		}
		a.RemoveOneTimeKey(used)
		if before = a.CurrentFallback(); before == "" || !a.UsedFallback(used) {
			t.Error("the fallback key is gone after its use")
		}
	}
}

// An account comes back from the store as it was, with what is published of it; a copy can be
// changed without a change of the account that it was made of.
func TestStoredAccount(t *testing.T) {
	t.Parallel()
	a := newTestAccount(t)
	if err := a.MakeOneTimeKeys(2); err != nil {
		t.Fatal(err)
	}
	a.MarkPublished(unpublished(t, a), nil)
	if err := a.MakeOneTimeKeys(1); err != nil {
		t.Fatal(err)
	}
	if err := a.GenFallbackKey(); err != nil {
		t.Fatal(err)
	}
	back, err := LoadAccount(a.Pickled())
	if err != nil {
		t.Fatal(err)
	}
	if back.Ed25519 != a.Ed25519 || back.Curve25519 != a.Curve25519 || !slices.Equal(keyIDs(back), keyIDs(a)) || back.CurrentFallback() != a.CurrentFallback() || back.NextOneTimeKeyID != a.NextOneTimeKeyID {
		t.Errorf("%s came back as %s", fmt.Sprint(a.Curve25519, keyIDs(a), a.NextOneTimeKeyID), fmt.Sprint(back.Curve25519, keyIDs(back), back.NextOneTimeKeyID))
	}
	if one, two := unpublished(t, a), unpublished(t, back); len(one) != 1 || !maps.EqualFunc(one, two, func(x, y json.RawMessage) bool { return string(x) == string(y) }) {
		t.Errorf("%d keys are to upload, then %d", len(one), len(two))
	}
	copied := a.Clone()
	was := string(a.Pickled().Reveal())
	copied.OTKeys[0].Published = true
	copied.SetAside()
	if err := copied.MakeOneTimeKeys(1); err != nil {
		t.Fatal(err)
	}
	copied.RemoveOneTimeKey(copied.OTKeys[1].Key.PublicKey)
	if string(a.Pickled().Reveal()) != was {
		t.Error("a change of the copy changed the account")
	}
	for name, pickle := range map[string]secret.Bytes{"nothing": nil, "no pickle": secret.Bytes("!!!!"), "half": a.Pickled()[:30]} {
		if got, err := LoadAccount(pickle); err == nil || got != nil {
			t.Errorf("%s is an account", name)
		}
	}
}

// Attack: a homeserver answers /keys/claim with a key that it made itself, or that another
// device has signed, to read what is sent to the device.
//
// Expected: a key counts only if the device itself has signed it, under its own name
// (requirement 3.10); with anything wrong there is no key.
func TestCheckOneTimeKeys(t *testing.T) {
	t.Parallel()
	bob, mallory := newTestAccount(t), newTestAccount(t)
	dev := &trustcache.Device{UserID: "@bob:x", DeviceID: "BOB", Ed25519: bob.Ed25519, Curve25519: bob.Curve25519}
	sign := func(by *Account, user id.UserID, device id.DeviceID, object string) string {
		raw, err := by.SignJSON(json.RawMessage(object), user, device)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	const name = "signed_curve25519:AAAAAQ"
	good := sign(bob, "@bob:x", "BOB", `{"key":"the key"}`)
	for _, tc := range []struct {
		what, name, object string
		want               id.Curve25519
	}{
		{"a one-time key", name, good, "the key"},
		{"a fallback key", name, sign(bob, "@bob:x", "BOB", `{"key":"the key","fallback":true}`), "the key"},
		{"with a member of others", name, sign(bob, "@bob:x", "BOB", `{"key":"the key","com.example":1}`), "the key"},
		{"another key than what was signed", name, strings.Replace(good, "the key", "my key", 1), ""},
		{"a member that was not signed", name, strings.Replace(good, `{"key"`, `{"fallback":true,"key"`, 1), ""},
		{"the key twice", name, strings.Replace(good, `{"key"`, `{"key":"my key","key"`, 1), ""},
		{"signed by somebody else", name, sign(mallory, "@bob:x", "BOB", `{"key":"the key"}`), ""},
		{"signed in another device's name", name, sign(bob, "@bob:x", "OTHER", `{"key":"the key"}`), ""},
		{"signed in another user's name", name, sign(bob, "@mallory:x", "BOB", `{"key":"the key"}`), ""},
		{"not signed", name, `{"key":"the key"}`, ""},
		{"a signature that is none", name, `{"key":"the key","signatures":{"@bob:x":{"ed25519:BOB":"!!"}}}`, ""},
		{"an empty signature", name, `{"key":"the key","signatures":{"@bob:x":{"ed25519:BOB":""}}}`, ""},
		{"no key", name, sign(bob, "@bob:x", "BOB", `{"fallback":true}`), ""},
		{"a key that is no text", name, sign(bob, "@bob:x", "BOB", `{"key":7}`), ""},
		{"a bare key", name, `"the key"`, ""},
		{"nothing", name, ``, ""},
		{"an algorithm without signatures", "curve25519:AAAAAQ", good, ""},
		{"an algorithm that begins alike", "signed_curve25519_v2:AAAAAQ", good, ""},
		{"only the algorithm", "signed_curve25519", good, ""},
		{"no name", "", good, ""},
	} {
		one := Claimed{Name: tc.name, Raw: json.RawMessage(tc.object), Of: dev}
		if got := CheckOneTimeKeys([]Claimed{one}); got[0] != tc.want {
			t.Errorf("%s: %q", tc.what, got)
		}
		right := Claimed{Name: name, Raw: json.RawMessage(good), Of: dev}
		if got := CheckOneTimeKeys([]Claimed{right, one, right}); got[0] != "the key" || got[1] != tc.want || got[2] != "the key" {
			t.Errorf("%s, between others: %q", tc.what, got)
		}
	}
}

// A ratchet key's public half is what X25519 makes of its private half.
func TestRatchetKeys(t *testing.T) {
	t.Parallel()
	for range 200 {
		pair, err := newRatchetKey()
		if err != nil {
			t.Fatal(err)
		}
		private, err := ecdh.X25519().NewPrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(private.PublicKey().Bytes(), pair.PublicKey) {
			t.Fatalf("the public key is %x, X25519's is %x", []byte(pair.PublicKey), private.PublicKey().Bytes())
		}
	}
}
