package signkey

import (
	"bytes"
	"crypto/sha512"
	"testing"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// The sum that a table computes is that of the library, also with the scalars at the ends of
// their range, whose digits carry.
func TestCombine(t *testing.T) {
	t.Parallel()
	encoded := make([]byte, 32)
	add := func(all []*edwards25519.Scalar, raw []byte) []*edwards25519.Scalar {
		t.Helper()
		s, err := new(edwards25519.Scalar).SetCanonicalBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		return append(all, s)
	}
	one := func(at, value byte) []byte {
		raw := bytes.Clone(encoded)
		raw[at] = value
		return raw
	}
	all := add(nil, encoded)
	all = add(all, one(0, 1))
	all = add(all, one(31, 0x10)) // 2^252
	full := bytes.Repeat([]byte{0xff}, 32)
	full[31] = 0x0f // 2^252 - 1
	all = add(all, full)
	for _, b := range []byte{0x77, 0x88, 0x7f, 0x80, 0xf7} {
		raw := bytes.Repeat([]byte{b}, 32)
		raw[31] = b & 0x0f
		all = add(all, raw)
	}
	all = append(all, new(edwards25519.Scalar).Negate(all[1])) // the largest
	for i := range 20 {
		sum := sha512.Sum512([]byte{byte(i)})
		s, err := new(edwards25519.Scalar).SetUniformBytes(sum[:])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	k, err := NewKey(new(edwards25519.Point).ScalarBaseMult(all[len(all)-1]).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	table := NewBase().NewTable(k)
	for i, challenge := range all {
		for j, s := range all {
			r := table.combine(challenge.Bytes(), s.Bytes())
			want := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(challenge, &k.minus, s)
			if got := r.encode(new(field.Element).Invert(&r.z)); !bytes.Equal(got[:], want.Bytes()) {
				t.Errorf("scalars %d and %d: %x, not %x", i, j, got, want.Bytes())
			}
		}
	}
}
