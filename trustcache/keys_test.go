package trustcache

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/big"
	"testing"
)

// Attack A17, A19: a key of small order makes signatures that fit any message, or an
// agreement that everybody knows. [refused]
func TestSmallOrderKeysAreRefused(t *testing.T) {
	t.Parallel()
	for _, y := range smallOrderEd25519() {
		for _, sign := range []byte{0, 0x80} {
			key := y
			key[31] |= sign
			if _, err := parseEd25519(base64.RawStdEncoding.EncodeToString(key[:])); !errors.Is(err, ErrBadKey) {
				t.Errorf("ed25519 %x: got %v, want ErrBadKey", key, err)
			}
		}
		if !forgeable(y) {
			t.Errorf("ed25519 %x is in the list but not of small order", y)
		}
	}
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range smallOrderCurve25519() {
		if _, err := parseCurve25519(base64.RawStdEncoding.EncodeToString(u[:])); !errors.Is(err, ErrBadKey) {
			t.Errorf("curve25519 %x: got %v, want ErrBadKey", u, err)
		}
		public, err := ecdh.X25519().NewPublicKey(u[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := private.ECDH(public); err == nil {
			t.Errorf("curve25519 %x is in the list but agrees on something", u)
		}
	}
}

// forgeable reports whether signatures under a key can be made without a private key:
// for a point of small order, S = 0 and R of small order fit one message in eight.
func forgeable(y [keySize]byte) bool {
	for _, sign := range []byte{0, 0x80} {
		key := y
		key[31] |= sign
		for i := range uint32(64) {
			for _, r := range smallOrderEd25519() {
				for _, rsign := range []byte{0, 0x80} {
					sig := make([]byte, ed25519.SignatureSize)
					copy(sig, r[:])
					sig[31] |= rsign
					if ed25519.Verify(key[:], binary.BigEndian.AppendUint32(nil, i), sig) {
						return true
					}
				}
			}
		}
	}
	return false
}

// A key that is not below the prime, or has the top bit set where it means nothing, has
// a second spelling: one key would have two names. [refused]
func TestKeysThatAreNotCanonicalAreRefused(t *testing.T) {
	t.Parallel()
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	for i := range int64(19) {
		n := new(big.Int).Add(prime, big.NewInt(i))
		var le [keySize]byte
		n.FillBytes(le[:])
		for a, b := 0, keySize-1; a < b; a, b = a+1, b-1 {
			le[a], le[b] = le[b], le[a]
		}
		text := base64.RawStdEncoding.EncodeToString(le[:])
		if _, err := parseEd25519(text); !errors.Is(err, ErrBadKey) {
			t.Errorf("ed25519 prime+%d: got %v", i, err)
		}
		if _, err := parseCurve25519(text); !errors.Is(err, ErrBadKey) {
			t.Errorf("curve25519 prime+%d: got %v", i, err)
		}
	}
	high, err := decodeBase64(newCurve("high").String())
	if err != nil {
		t.Fatal(err)
	}
	high[31] |= 0x80
	if _, err := parseCurve25519(base64.RawStdEncoding.EncodeToString(high)); !errors.Is(err, ErrBadKey) {
		t.Errorf("curve25519 with the top bit: got %v", err)
	}
}

// Requirement 2.9: padded base64 is accepted on input, and gives the same key.
func TestKeySpellings(t *testing.T) {
	t.Parallel()
	good := newSigner("spelling").public.String()
	for _, tc := range []struct {
		name, in string
		ok       bool
	}{
		{"unpadded", good, true},
		{"padded", good + "=", true},
		{"too much padding", good + "==", false},
		{"padding in front", "=" + good, false},
		{"empty", "", false},
		{"short", good[:40], false},
		{"long", good + good[:4], false},
		{"URL alphabet", "_" + good[1:], false},
		{"line break", good[:10] + "\n" + good[10:], false},
		{"space", good[:10] + " " + good[10:], false},
		{"second spelling of the last bits", good[:42] + string(good[42]+1), false},
	} {
		got, err := parseEd25519(tc.in)
		if (err == nil) != tc.ok {
			t.Errorf("%s: err = %v, want ok %v", tc.name, err, tc.ok)
		}
		if err == nil && got.String() != good {
			t.Errorf("%s: got %s, want %s", tc.name, got, good)
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add(newSigner("fuzz").public.String())
	f.Add(newCurve("fuzz").String() + "=")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if key, err := parseEd25519(s); err == nil {
			if again, err := parseEd25519(key.String()); err != nil || again != key || len(key.Bytes()) != keySize {
				t.Fatalf("%q: %q is not its own spelling", s, key)
			}
		}
		if key, err := parseCurve25519(s); err == nil {
			if again, err := parseCurve25519(key.String()); err != nil || again != key || len(key.Bytes()) != keySize {
				t.Fatalf("%q: %q is not its own spelling", s, key)
			}
		}
	})
}
