package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const alice = id.UserID("@alice:hs")

// seeds are those of RFC 8032, section 7.1, tests 1 to 3, with their public keys.
var seeds = [...]struct{ seed, public string }{
	{"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
	{"TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs", "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw"},
	{"xaqN9D+fg3vtt0QvMdy3sWbThTUHbwlLhc46LgtEWPc", "/FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU"},
}

// aKey returns one of the seeds' keys.
func aKey(t *testing.T, n int) *pk.Signing {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString(seeds[n].seed)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pk.NewSigningFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	if key.PublicKey().String() != seeds[n].public {
		t.Fatalf("seed %d has the public key %s", n, key.PublicKey())
	}
	return key
}

func aliceKeys(t *testing.T) *Keys {
	t.Helper()
	return &Keys{Master: aKey(t, 0), SelfSigning: aKey(t, 1), UserSigning: aKey(t, 2)}
}

// published returns alice as a homeserver shows her with some keys.
func published(master, self, user id.Ed25519) *trustcache.User {
	return &trustcache.User{
		UserID: alice, Own: true, Knowledge: trustcache.KnowledgeFresh, Pin: trustcache.Pin{Current: master},
		Identity: trustcache.Identity{Master: master, SelfSigning: self, UserSigning: user},
	}
}

// unsigned takes an object apart: without its signatures, and who has signed it under which
// names.
func unsigned(t *testing.T, raw json.RawMessage) (bare string, signers []string) {
	t.Helper()
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(raw, &obj); err != nil {
		t.Fatal(err)
	}
	var by map[string]map[string]string
	if obj["signatures"] != nil {
		if err := json.Unmarshal(obj["signatures"], &by); err != nil {
			t.Fatal(err)
		}
	}
	for user, list := range by {
		for key := range list {
			signers = append(signers, user+" "+key)
		}
	}
	delete(obj, "signatures")
	out, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), signers
}

// What is uploaded of an identity, member by member (Client-Server API, "Cross-signing",
// POST /keys/device_signing/upload; requirements 12.2, 12.3): three public keys, each under
// its own name, the two lesser ones signed by the master key and the master key by the
// device. Nothing of a private key is in it.
func TestUploadedIdentity(t *testing.T) {
	t.Parallel()
	keys, device := aliceKeys(t), aKey(t, 0)
	var given json.RawMessage
	body, err := keys.Upload(alice, func(master json.RawMessage) (json.RawMessage, error) {
		given = master
		return json.RawMessage(`{"signed by":"the device"}`), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	object := func(usage string, n int) string {
		return `{"keys":{"ed25519:` + seeds[n].public + `":"` + seeds[n].public + `"},"usage":["` + usage + `"],"user_id":"@alice:hs"}`
	}
	if bare, signers := unsigned(t, given); bare != object("master", 0) || len(signers) > 0 {
		t.Errorf("the device signs %s, %v", given, signers)
	}
	raws := make(map[string]json.RawMessage)
	for name, value := range body {
		raw, ok := value.(json.RawMessage)
		if !ok {
			t.Fatalf("%s is %T", name, value)
		}
		raws[name] = raw
	}
	if names := slices.Sorted(maps.Keys(raws)); !slices.Equal(names, []string{"master_key", "self_signing_key", "user_signing_key"}) {
		t.Errorf("uploaded are %v", names)
	}
	if string(raws["master_key"]) != `{"signed by":"the device"}` {
		t.Errorf("the master key is uploaded as %s", raws["master_key"])
	}
	for n, usage := range map[int]string{1: "self_signing", 2: "user_signing"} {
		raw := raws[usage+"_key"]
		bare, signers := unsigned(t, raw)
		if bare != object(usage, n) || !slices.Equal(signers, []string{"@alice:hs ed25519:" + seeds[0].public}) {
			t.Errorf("%s: %s by %v", usage, bare, signers)
		}
		if ok, err := signatures.VerifySignatureJSON(raw, alice, seeds[0].public, device.PublicKey()); err != nil || !ok {
			t.Errorf("%s: its signature is wrong, %v", usage, err)
		}
	}
	all, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seeds {
		if strings.Contains(string(all), s.seed) {
			t.Error("a seed is uploaded")
		}
	}
}

// An identity whose master key the device cannot sign is not uploaded in parts.
func TestUploadWithoutTheDevice(t *testing.T) {
	t.Parallel()
	errDevice := errors.New("the device has no keys")
	body, err := aliceKeys(t).Upload(alice, func(json.RawMessage) (json.RawMessage, error) { return nil, errDevice })
	if !errors.Is(err, errDevice) || body != nil {
		t.Errorf("%v, %v", body, err)
	}
}

// A new identity has three keys that have nothing to do with each other, or with those of
// the next one.
func TestNewKeys(t *testing.T) {
	t.Parallel()
	seen := make(map[id.Ed25519]string)
	for range 2 {
		keys, err := NewKeys()
		if err != nil {
			t.Fatal(err)
		}
		for name, slot := range keys.Slots() {
			if *slot == nil {
				t.Fatalf("%s is missing", name)
			}
			public := (*slot).PublicKey()
			if before := seen[public]; before != "" {
				t.Errorf("%s is %s again", name, before)
			}
			seen[public] = name
		}
		if misfits := keys.Misfits(published(keys.Master.PublicKey(), keys.SelfSigning.PublicKey(), keys.UserSigning.PublicKey())); len(misfits) > 0 {
			t.Errorf("%v do not fit what is made of them", misfits)
		}
	}
}

// Which private keys belong to what the homeserver shows. A key that does not is of no use,
// or worse: what it signs would be given to somebody else's identity. With another master
// key none belongs, whatever else is shown. What is not shown contradicts nothing.
func TestMisfits(t *testing.T) {
	t.Parallel()
	key := func(n int) id.Ed25519 { return id.Ed25519(seeds[n].public) }
	const other = id.Ed25519("another key")
	all := []string{SecretMaster, SecretSelfSigning, SecretUserSigning}
	for _, tc := range []struct {
		name   string
		own    *trustcache.User
		has    func(c *Keys)
		misfit []string
	}{
		{"all belong", published(key(0), key(1), key(2)), nil, nil},
		{"another identity", published(other, other, other), nil, all},
		{"another master key over the same lesser ones", published(other, key(1), key(2)), nil, all},
		{"no identity is shown", published("", "", ""), nil, all},
		{"another self-signing key", published(key(0), other, key(2)), nil, []string{SecretSelfSigning}},
		{"another user-signing key", published(key(0), key(1), other), nil, []string{SecretUserSigning}},
		{"both lesser ones are swapped", published(key(0), key(2), key(1)), nil, []string{SecretSelfSigning, SecretUserSigning}},
		{"the lesser ones are not shown", published(key(0), "", ""), nil, nil},
		{"without the master key, all belong", published(other, key(1), key(2)), func(c *Keys) { c.Master = nil }, nil},
		{"without the master key, one does not", published(key(0), other, key(2)), func(c *Keys) { c.Master = nil }, []string{SecretSelfSigning}},
		{"only the master key, which is another", published(other, key(1), key(2)), func(c *Keys) { c.SelfSigning, c.UserSigning = nil, nil }, []string{SecretMaster}},
		{"no keys", published(key(0), key(1), key(2)), func(c *Keys) { *c = Keys{} }, nil},
	} {
		c := aliceKeys(t)
		if tc.has != nil {
			tc.has(c)
		}
		got := c.Misfits(tc.own)
		slices.Sort(got)
		if !slices.Equal(got, tc.misfit) {
			t.Errorf("%s: %v do not fit, want %v", tc.name, got, tc.misfit)
		}
	}
}

// Each key has one name, the spec's ("Sharing keys between devices", "Secrets"), in the
// database, in secret storage and in what is published.
func TestNamesOfKeys(t *testing.T) {
	t.Parallel()
	c := aliceKeys(t)
	own := published(id.Ed25519(seeds[0].public), id.Ed25519(seeds[1].public), id.Ed25519(seeds[2].public))
	slots, inStorage, rows := c.Slots(), c.ByName(), c.Secrets()
	for n, name := range []string{"m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing"} {
		seed, err := base64.RawStdEncoding.DecodeString(seeds[n].seed)
		if err != nil {
			t.Fatal(err)
		}
		if slots[name] == nil || (*slots[name]).PublicKey().String() != seeds[n].public {
			t.Errorf("%s has another place", name)
		}
		if !bytes.Equal(inStorage[name], seed) {
			t.Errorf("%s is another key in secret storage", name)
		}
		i := slices.IndexFunc(rows, func(s store.Secret) bool { return s.Name == name })
		if i < 0 || !bytes.Equal(rows[i].Value.Reveal(), seed) {
			t.Errorf("%s is another key in the database", name)
		}
		if PublishedKey(own, name).String() != seeds[n].public {
			t.Errorf("%s is published as %s", name, PublishedKey(own, name))
		}
	}
	if len(slots) != 3 || len(inStorage) != 3 || len(rows) != 3 {
		t.Errorf("%d places, %d in secret storage, %d in the database", len(slots), len(inStorage), len(rows))
	}
	for _, name := range []string{SecretBackup, SecretStorageKey, "", "m.cross_signing"} {
		if key := PublishedKey(own, name); key != "" {
			t.Errorf("%q is published as %s", name, key)
		}
	}
	// Where a key is kept is where it is put.
	*slots[SecretUserSigning] = nil
	if c.UserSigning != nil {
		t.Error("the place of a key is a copy")
	}
}

// What a device keeps among its account's secrets has names that no other device's and no
// other secret's can be, and all of them go when the device goes.
func TestNamesOfADevicesSecrets(t *testing.T) {
	t.Parallel()
	const one, two = id.Ed25519("one"), id.Ed25519("one:two")
	reserved := []string{SecretMaster, SecretSelfSigning, SecretUserSigning, SecretBackup, SecretStorageKey}
	owners := make(map[string]string)
	for _, name := range reserved {
		owners[name] = "the account"
	}
	for _, device := range []id.Ed25519{one, two} {
		for _, name := range DeviceSecrets(device) {
			if before := owners[name]; before != "" {
				t.Errorf("%q is a secret of %s and of %s", name, before, device)
			}
			owners[name] = device.String()
		}
	}
	mine := DeviceSecrets(one)
	for _, kind := range []string{SecretRestore, SecretRequests, SecretKeysAsked, SecretWedged, SecretHistory, SecretVerifying} {
		if !slices.Contains(mine, OfDevice(kind, one)) {
			t.Errorf("%q of a device stays when it goes", kind)
		}
	}
	for _, name := range []string{SecretMaster, SecretSelfSigning, SecretUserSigning, SecretBackup} {
		if !slices.Contains(mine, AskedName(one, name)) {
			t.Errorf("that it requested %s stays when a device goes", name)
		}
	}
	if len(mine) != 10 {
		t.Errorf("a device has %q", mine)
	}
}
