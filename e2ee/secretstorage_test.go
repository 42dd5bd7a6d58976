package e2ee_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/utils"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// storage is secret storage as another client makes it, by the words of the spec and with
// nothing of the library that the engine uses.
type storage struct {
	t      *testing.T
	encode func([]byte) string
	key    []byte
}

// derived returns what the key makes of data for a name: the ciphertext and its MAC.
func (s *storage) derived(name string, iv, data []byte) (sealed, mac []byte) {
	s.t.Helper()
	keys, err := hkdf.Key(sha256.New, s.key, make([]byte, 32), name, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	block, err := aes.NewCipher(keys[:32])
	if err != nil {
		s.t.Fatal(err)
	}
	sealed = make([]byte, len(data))
	cipher.NewCTR(block, iv).XORKeyStream(sealed, data)
	h := hmac.New(sha256.New, keys[32:])
	h.Write(sealed)
	return sealed, h.Sum(nil)
}

// description is that of the key, with check data (requirement 14.2).
func (s *storage) description() map[string]any {
	iv := []byte("0123456789abcdef")
	_, mac := s.derived("", iv, make([]byte, 32))
	return map[string]any{"algorithm": "m.secret_storage.v1.aes-hmac-sha2", "iv": s.encode(iv), "mac": s.encode(mac)}
}

// sealed returns a secret as account data.
func (s *storage) sealed(name, value string) map[string]any {
	iv := []byte("fedcba9876543210")
	data, mac := s.derived(name, iv, []byte(value))
	return map[string]any{"encrypted": map[string]any{"OTHERS": map[string]any{
		"iv": s.encode(iv), "ciphertext": s.encode(data), "mac": s.encode(mac),
	}}}
}

// Secret storage of other clients opens, however they wrote it, and nothing that does not
// fit is used (requirements 14.1 to 14.7). Whatever is refused changes nothing.
func TestRecoverFromStorageOfOthers(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	secrets, err := first.dev.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first.rig.stop() // it would keep its own storage whole
	names := []string{"m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing", "m.megolm_backup.v1"}
	const phrase = "open sesame"
	stretched := func(bits int) []byte {
		key, err := pbkdf2.Key(sha512.New, phrase, []byte("salt"), 1000, bits/8)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	withPhrase := func(d map[string]any, more map[string]any) {
		p := map[string]any{"algorithm": "m.pbkdf2", "salt": "salt", "iterations": 1000}
		maps.Copy(p, more)
		d["passphrase"] = p
	}
	type data = map[string]map[string]any
	bare, padded := base64.RawStdEncoding.EncodeToString, base64.StdEncoding.EncodeToString
	asPhrase := e2ee.Recovery{Passphrase: secret.NewString(phrase)}
	random := []byte("this key has thirty-two bytes..!")
	asKey := e2ee.Recovery{Key: secret.NewString(utils.EncodeBase58RecoveryKey(random))}
	for i, tc := range []struct {
		name   string
		encode func([]byte) string
		key    []byte
		with   e2ee.Recovery
		// change is made to the description of the key and to the account data.
		change func(description map[string]any, all data)
		want   error
	}{
		{"key, unpadded", bare, random, asKey, nil, nil},
		{"key, padded (14.3)", padded, random, asKey, nil, nil},
		{"key with other spaces (14.6)", bare, random, e2ee.Recovery{Key: secret.NewString(
			"\n" + strings.ReplaceAll(utils.EncodeBase58RecoveryKey(random), " ", "") + " ")}, nil, nil},
		{"secrets padded inside", bare, random, asKey, func(_ map[string]any, all data) {
			s := &storage{t, bare, random}
			for _, name := range names {
				all[name] = s.sealed(name, secrets[name]+"=")
			}
		}, nil},
		{"no check data: assumed to be right (14.2)", bare, random, asKey, func(d map[string]any, _ data) { delete(d, "iv"); delete(d, "mac") }, nil},
		{"no IV: assumed to be right (14.2)", bare, random, asKey, func(d map[string]any, _ data) { delete(d, "iv") }, nil},
		{"no check data, and a wrong key", bare, stretched(256), asKey, func(d map[string]any, _ data) { delete(d, "iv"); delete(d, "mac") }, e2ee.ErrWrongRecoveryKey},
		{"check data of another key", bare, stretched(256), asKey, nil, e2ee.ErrWrongRecoveryKey},
		{"passphrase, bits not given: 256 (14.6)", bare, stretched(256), asPhrase, func(d map[string]any, _ data) { withPhrase(d, nil) }, nil},
		{"passphrase, 256 bits", padded, stretched(256), asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"bits": 256}) }, nil},
		{"passphrase, 512 bits (14.6)", bare, stretched(512), asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"bits": 512}) }, nil},
		{"passphrase, 128 bits", bare, stretched(128), asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"bits": 128}) }, nil},
		{"passphrase, no check data", bare, stretched(256), asPhrase, func(d map[string]any, _ data) { withPhrase(d, nil); delete(d, "iv"); delete(d, "mac") }, nil},
		{"another passphrase", bare, random, asPhrase, func(d map[string]any, _ data) { withPhrase(d, nil) }, e2ee.ErrWrongRecoveryKey},
		{"passphrase where there is none", bare, random, asPhrase, nil, e2ee.ErrNoPassphrase},
		{"bits that make a key anybody guesses", bare, stretched(8), asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"bits": 8}) }, e2ee.ErrNoSecretStorage},
		{"iterations without end", bare, random, asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"iterations": 1 << 40}) }, e2ee.ErrNoSecretStorage},
		{"no iterations", bare, random, asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"iterations": 0}) }, e2ee.ErrNoSecretStorage},
		{"another derivation", bare, random, asPhrase, func(d map[string]any, _ data) { withPhrase(d, map[string]any{"algorithm": "m.argon2"}) }, e2ee.ErrNoSecretStorage},
		{"another algorithm (14.1)", bare, random, asKey, func(d map[string]any, _ data) { d["algorithm"] = "m.secret_storage.v1.curve25519-aes-sha2" }, e2ee.ErrNoSecretStorage},
		{"no default key (14.4)", bare, random, asKey, func(_ map[string]any, all data) { all["m.secret_storage.default_key"] = map[string]any{"key": "NONE"} }, e2ee.ErrNoSecretStorage},
		{"a secret is missing", bare, random, asKey, func(_ map[string]any, all data) { all[names[1]] = map[string]any{} }, e2ee.ErrSecretMissing},
		{"a secret under another key", bare, random, asKey, func(_ map[string]any, all data) {
			encrypted, _ := all[names[2]]["encrypted"].(map[string]any)
			all[names[2]] = map[string]any{"encrypted": map[string]any{"ANOTHER": encrypted["OTHERS"]}}
		}, e2ee.ErrSecretMissing},
		{"a secret under another's name (14.5)", bare, random, asKey, func(_ map[string]any, all data) { all[names[0]] = all[names[1]] }, e2ee.ErrSecretMismatch},
		{"a seed that makes another public key (14.7)", bare, random, asKey, func(_ map[string]any, all data) {
			all[names[0]] = (&storage{t, bare, random}).sealed(names[0], secrets[names[1]])
		}, e2ee.ErrSecretMismatch},
		{"a secret that is no base64", bare, random, asKey, func(_ map[string]any, all data) {
			all[names[0]] = (&storage{t, bare, random}).sealed(names[0], "???")
		}, e2ee.ErrSecretMismatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &storage{t, tc.encode, tc.key}
			description, all := s.description(), data{"m.secret_storage.default_key": {"key": "OTHERS"}}
			for _, name := range names {
				all[name] = s.sealed(name, secrets[name])
			}
			if tc.change != nil {
				tc.change(description, all)
			}
			all["m.secret_storage.key.OTHERS"] = description
			for name, value := range all {
				setAccountData(t, hs, first.Session, name, value)
			}
			r := newRig(t, hs, nil)
			dev := r.device(hs.Login("alice", "SECOND"+strconv.Itoa(i)))
			settle(t, dev)
			err := dev.Recover(t.Context(), tc.with)
			if !errors.Is(err, tc.want) || (tc.want == nil && err != nil) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if got := status(t, dev); inOrder(got) != (tc.want == nil) || got.Identity.DeviceSigned != (tc.want == nil) {
				t.Errorf("identity %+v, backup %+v", got.Identity, got.Backup)
			}
			mine, err := dev.Secrets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if want := map[bool]string{true: secrets[name]}[tc.want == nil]; mine[name] != want {
					t.Errorf("%s is there: %v, want it: %v", name, mine[name] != "", want != "")
				}
			}
		})
	}
}

// The key that a bootstrap makes is described so that other clients can check it, and
// everything belongs to the default key (requirements 1.5, 14.1, 14.2, 14.4, 14.5).
func TestStorageKeyCanBeChecked(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	for i := range 8 { // the IV is random
		who := newPerson(t, hs, "user"+strconv.Itoa(i), "DEVICE")
		key := utils.DecodeBase58RecoveryKey(recoveryKey(t, who.dev).Reveal())
		var def struct{ Key string }
		readData(t, who, "m.secret_storage.default_key", &def)
		var d struct{ Algorithm, IV, MAC string }
		readData(t, who, "m.secret_storage.key."+def.Key, &d)
		iv, err := base64.RawStdEncoding.DecodeString(d.IV)
		if err != nil || len(iv) != 16 {
			t.Fatalf("the IV is %q: %v", d.IV, err)
		}
		if iv[8]&0x80 != 0 {
			t.Error("bit 63 of the IV is set")
		}
		s := &storage{t, base64.RawStdEncoding.EncodeToString, key}
		if _, mac := s.derived("", iv, make([]byte, 32)); d.MAC != s.encode(mac) || d.Algorithm != "m.secret_storage.v1.aes-hmac-sha2" {
			t.Errorf("the description is %+v", d)
		}
		secrets, err := who.dev.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing", "m.megolm_backup.v1"} {
			var stored struct {
				Encrypted map[string]struct{ IV, Ciphertext, MAC string }
			}
			readData(t, who, name, &stored)
			e := stored.Encrypted[def.Key]
			iv, err := base64.RawStdEncoding.DecodeString(e.IV)
			if err != nil || len(iv) != 16 || iv[8]&0x80 != 0 {
				t.Fatalf("%s: the IV is %q: %v", name, e.IV, err)
			}
			if data, mac := s.derived(name, iv, []byte(secrets[name])); e.Ciphertext != s.encode(data) || e.MAC != s.encode(mac) {
				t.Errorf("%s is not what it should be", name)
			}
		}
	}
}

func readData(t *testing.T, who *person, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(accountData(t, who.hs, who.Session, name), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
