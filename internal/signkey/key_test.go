package signkey_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"filippo.io/edwards25519"

	"e2ee-proxy/internal/signkey"
)

// alike checks a signature in every way, and fails unless all say what crypto/ed25519 says, which
// is returned.
func alike(t testing.TB, base *signkey.Base, k *signkey.Key, raw, message, signature []byte) bool {
	t.Helper()
	want := ed25519.Verify(raw, message, signature)
	if got := k.Verify(message, signature); got != want {
		t.Errorf("key %x, message %x, signature %x: got %v, crypto/ed25519 says %v", raw, message, signature, got, want)
	}
	if got := base.NewTable(k).Verify(message, signature); got != want {
		t.Errorf("key %x, message %x, signature %x: got %v with a table, crypto/ed25519 says %v", raw, message, signature, got, want)
	}
	table := base.NewTable(k)
	other := signkey.Check{By: table, Message: []byte("another"), Signature: signature}
	for _, by := range []signkey.Verifier{k, table} {
		one := signkey.Check{By: by, Message: message, Signature: signature}
		if got := signkey.VerifyAll([]signkey.Check{other, one, {Message: message, Signature: signature}, one, other}); got[1] != want || got[3] != want || got[2] || got[0] != ed25519.Verify(raw, other.Message, signature) || got[4] != got[0] {
			t.Errorf("key %x, message %x, signature %x: got %v among others, crypto/ed25519 says %v", raw, message, signature, got, want)
		}
	}
	return want
}

// The vectors of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020), which
// implementations are known to disagree about: https://github.com/novifinancial/ed25519-speccheck
func TestSpeccheckVectors(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/speccheck.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Message   string
		PubKey    string `json:"pub_key"`
		Signature string
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) != 10 {
		t.Fatal(len(cases), err)
	}
	base := signkey.NewBase()
	var accepted []int
	for i, c := range cases {
		pub := unhex(t, c.PubKey)
		k, err := signkey.NewKey(pub)
		if i < 2 { // the key has a small order
			if err == nil {
				t.Errorf("case %d: the key is taken", i)
			}
			continue
		}
		if err != nil {
			t.Errorf("case %d: the key is refused", i)
			continue
		}
		if alike(t, base, k, pub, unhex(t, c.Message), unhex(t, c.Signature)) {
			accepted = append(accepted, i)
		}
	}
	if want := []int{2, 3}; !slices.Equal(accepted, want) {
		t.Errorf("accepted are %v, not %v", accepted, want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// torsion returns the eight points of small order.
func torsion(t *testing.T) []*edwards25519.Point {
	t.Helper()
	of8, err := new(edwards25519.Point).SetBytes(unhex(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"))
	if err != nil {
		t.Fatal(err)
	}
	all := []*edwards25519.Point{edwards25519.NewIdentityPoint()}
	for range 7 {
		all = append(all, new(edwards25519.Point).Add(all[len(all)-1], of8))
	}
	return all
}

func scalar(t *testing.T, seed string) *edwards25519.Scalar {
	t.Helper()
	sum := sha512.Sum512([]byte(seed))
	s, err := new(edwards25519.Scalar).SetUniformBytes(sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Keys and signatures with a part of small order, as only a signer who wants to be accepted by
// some and refused by others makes them: whether they are accepted depends on whether the parts
// cancel each other out, and on nothing that a check by chance or with a cofactor would see.
func TestPartsOfSmallOrder(t *testing.T) {
	t.Parallel()
	base := signkey.NewBase()
	counts := make(map[bool]int)
	small := torsion(t)
	for i, inKey := range small {
		private := scalar(t, "key")
		point := new(edwards25519.Point).ScalarBaseMult(private)
		pub := point.Add(point, inKey).Bytes()
		k, err := signkey.NewKey(pub)
		if err != nil {
			t.Fatalf("a key with a part of order %d is refused", i)
		}
		for j, inR := range small {
			for n, secret := range []*edwards25519.Scalar{scalar(t, "r"), edwards25519.NewScalar()} {
				message := []byte{byte(i), byte(j), byte(n)}
				r := new(edwards25519.Point).ScalarBaseMult(secret)
				signature := r.Add(r, inR).Bytes()
				sum := sha512.Sum512(slices.Concat(signature, pub, message))
				challenge, err := new(edwards25519.Scalar).SetUniformBytes(sum[:])
				if err != nil {
					t.Fatal(err)
				}
				signature = append(signature, new(edwards25519.Scalar).MultiplyAdd(challenge, private, secret).Bytes()...)
				counts[alike(t, base, k, pub, message, signature)]++
			}
		}
	}
	if counts[true] < 8 || counts[false] < 8 {
		t.Errorf("%d are accepted, %d refused", counts[true], counts[false])
	}
}

// order is the order of the base point, in the encoding of scalars.
func order(t *testing.T) []byte {
	t.Helper()
	return unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
}

// Encodings that are not the canonical ones, and what only resembles a signature.
func TestOtherEncodings(t *testing.T) {
	t.Parallel()
	base := signkey.NewBase()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := signkey.NewKey(pub)
	if err != nil || !k.Is(pub) || k.Is(private.Seed()) {
		t.Fatal(err)
	}
	message := []byte("said")
	good := ed25519.Sign(private, message)
	if !alike(t, base, k, pub, message, good) {
		t.Fatal("a signature is refused")
	}
	with := func(r, s []byte) []byte { return slices.Concat(r, s) }
	plusOrder, carry := make([]byte, 32), 0
	for i, b := range order(t) {
		carry += int(good[32+i]) + int(b)
		plusOrder[i], carry = byte(carry), carry>>8
	}
	less := order(t)
	less[0]--
	for name, bad := range map[string][]byte{
		"s plus the order":       with(good[:32], plusOrder),
		"s is the order":         with(good[:32], order(t)),
		"s is one less":          with(good[:32], less),
		"s is zero":              with(good[:32], make([]byte, 32)),
		"s is all ones":          with(good[:32], bytes.Repeat([]byte{255}, 32)),
		"r is p":                 with(unhex(t, "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), good[32:]),
		"r is p, s zero":         with(unhex(t, "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"), make([]byte, 32)),
		"r is minus 0":           with(unhex(t, "0100000000000000000000000000000000000000000000000000000000000080"), good[32:]),
		"another sign":           with(append(bytes.Clone(good[:31]), good[31]^0x80), good[32:]),
		"too short":              good[:63],
		"too long":               append(bytes.Clone(good), 0),
		"empty":                  nil,
		"another message's half": with(good[:32], ed25519.Sign(private, []byte("x"))[32:]),
	} {
		if alike(t, base, k, pub, message, bad) {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, raw := range []string{
		"", "00", hex.EncodeToString(pub) + "00",
		"0200000000000000000000000000000000000000000000000000000000000000", // no point
		"0100000000000000000000000000000000000000000000000000000000000000", // small orders
		"0000000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"0100000000000000000000000000000000000000000000000000000000000080", // other encodings
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		if _, err := signkey.NewKey(unhex(t, raw)); err == nil {
			t.Errorf("%s is taken for a key", raw)
		}
	}
}

func FuzzVerify(f *testing.F) {
	base := signkey.NewBase()
	f.Add([]byte("seed"), []byte("message"), []byte{}, byte(0), byte(0))
	f.Add([]byte("seed"), []byte("message"), []byte{}, byte(63), byte(0xe0))
	f.Add([]byte("x"), []byte{}, bytes.Repeat([]byte{1}, 64), byte(0), byte(1))
	f.Fuzz(func(t *testing.T, seed, message, signature []byte, at, flip byte) {
		sum := sha512.Sum512(seed)
		private := ed25519.NewKeyFromSeed(sum[:32])
		pub := private.Public().(ed25519.PublicKey)
		if len(signature) == 0 {
			signature = ed25519.Sign(private, message)
			signature[at%64] ^= flip
		}
		k, err := signkey.NewKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		alike(t, base, k, pub, message, signature)
	})
}

// There are as many tables as were allowed, and those that nobody uses go.
func TestTablesAreFew(t *testing.T) {
	t.Parallel()
	tables, err := signkey.NewTables(2)
	if err != nil {
		t.Fatal(err)
	}
	var keys []*signkey.Key
	now := time.Unix(1_000, 0)
	for i := range 3 {
		seed := sha512.Sum512([]byte{byte(i)})
		private := ed25519.NewKeyFromSeed(seed[:32])
		k, err := signkey.NewKey(private.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		if tables.Of(k, now) != nil {
			t.Error("a table is there before it is made")
		}
		if !tables.Make(k, now).Verify([]byte("said"), ed25519.Sign(private, []byte("said"))) {
			t.Error("a signature is refused")
		}
	}
	has := func() (all []bool) {
		for _, k := range keys {
			all = append(all, tables.Of(k, now) != nil)
		}
		return all
	}
	if got := has(); !slices.Equal(got, []bool{false, true, true}) {
		t.Errorf("tables are there: %v", got)
	}
	now = now.Add(time.Minute)
	tables.Of(keys[2], now)
	tables.Forget(now.Add(-time.Second))
	if got := has(); !slices.Equal(got, []bool{false, false, true}) {
		t.Errorf("tables are there: %v", got)
	}
}

// A batch in which one, some or all signatures are wrong, of several keys, with a table and without.
func TestWrongSignaturesHarmNoOthers(t *testing.T) {
	t.Parallel()
	base := signkey.NewBase()
	const n = 9
	var checks []signkey.Check
	for i := range n {
		seed := sha512.Sum512([]byte{byte(i)})
		private := ed25519.NewKeyFromSeed(seed[:32])
		k, err := signkey.NewKey(private.Public().(ed25519.PublicKey))
		if err != nil {
			t.Fatal(err)
		}
		c := signkey.Check{By: base.NewTable(k), Message: []byte{byte(i)}, Signature: ed25519.Sign(private, []byte{byte(i)})}
		if i%3 == 0 {
			c.By = k
		}
		checks = append(checks, c)
	}
	for wrong := range 1 << n {
		batch := slices.Clone(checks)
		want := make([]bool, n)
		for i := range batch {
			if want[i] = wrong>>i&1 == 0; want[i] {
				continue
			}
			switch i % 4 {
			case 0:
				batch[i].Message = []byte("other")
			case 1:
				batch[i].Signature = checks[(i+1)%n].Signature
			case 2:
				batch[i].Signature = batch[i].Signature[:63]
			case 3:
				batch[i].By = checks[(i+1)%n].By
			}
		}
		if got := signkey.VerifyAll(batch); !slices.Equal(got, want) {
			t.Fatalf("wrong are %b: got %v", wrong, got)
		}
	}
	if got := signkey.VerifyAll(nil); len(got) != 0 {
		t.Errorf("of none: %v", got)
	}
}

// BenchmarkVerify is one signature of a message of 300 bytes.
func BenchmarkVerify(b *testing.B) {
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		b.Fatal(err)
	}
	message := make([]byte, 300)
	signature := ed25519.Sign(private, message)
	k, err := signkey.NewKey(pub)
	if err != nil {
		b.Fatal(err)
	}
	base := signkey.NewBase()
	table := base.NewTable(k)
	batch := slices.Repeat([]signkey.Check{{By: table, Message: message, Signature: signature}}, 32)
	b.Run("batch-of-32", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			if n%len(batch) == 0 && slices.Contains(signkey.VerifyAll(batch), false) {
				b.Fatal("refused")
			}
		}
	})
	for name, verify := range map[string]func() bool{
		"reference=crypto": func() bool { return ed25519.Verify(pub, message, signature) },
		"key":              func() bool { return k.Verify(message, signature) },
		"table":            func() bool { return table.Verify(message, signature) },
		"new-table":        func() bool { return base.NewTable(k).Verify(message, signature) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !verify() {
					b.Fatal("refused")
				}
			}
		})
	}
}
