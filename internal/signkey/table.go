package signkey

import (
	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// Scalars below 2^253 are written with signed digits: those of the key with 4 bits each, those of
// the base point, whose table is there once, with baseBits. Of the key's 64 places the odd ones
// are added first, and that is doubled 4 times: so its table has half of them.
const (
	keyPlaces = 64
	keyHalf   = 8

	baseBits   = 7
	basePlaces = 37
	baseHalf   = 1 << (baseBits - 1)
)

// Table is a key with multiples of it: with that a signature is checked in about a third of
// the time. It may be used by many at once.
type Table struct {
	key  *Key
	base *Base
	of   []addend // 1 to 8 times 256^i times the negative of the key
}

// Base is the table of the base point, which all others need.
type Base struct{ of []addend }

// NewBase computes it.
func NewBase() *Base {
	return &Base{multiples(edwards25519.NewGeneratorPoint(), basePlaces, baseBits, baseHalf)}
}

// NewTable computes the table of a key. That takes as long as about three signatures.
func (b *Base) NewTable(k *Key) *Table {
	return &Table{key: k, base: b, of: multiples(&k.minus, keyPlaces/2, 8, keyHalf)}
}

// Verify reports whether a signature is valid.
func (t *Table) Verify(message, signature []byte) bool {
	var challenge, s edwards25519.Scalar
	if !t.key.read(message, signature, &challenge, &s) {
		return false
	}
	r := t.combine(challenge.Bytes(), s.Bytes())
	encoded := r.encode(new(field.Element).Invert(&r.z))
	return string(encoded[:]) == string(signature[:keySize])
}

// combine returns [s]B - [challenge]A.
func (t *Table) combine(challenge, s []byte) point {
	var digits [keyPlaces]int8
	signedDigits(digits[:], challenge, 4)
	r := identity()
	for i := 1; i < keyPlaces; i += 2 {
		r.addMultiple(t.of[i/2*keyHalf:], digits[i])
	}
	r.double(4)
	for i := 0; i < keyPlaces; i += 2 {
		r.addMultiple(t.of[i/2*keyHalf:], digits[i])
	}
	var baseDigits [basePlaces]int8
	signedDigits(baseDigits[:], s, baseBits)
	for i, d := range baseDigits {
		r.addMultiple(t.base.of[i*baseHalf:], d)
	}
	return r
}

// addMultiple adds a digit times the point whose multiples begin with those.
func (p *point) addMultiple(of []addend, digit int8) {
	switch {
	case digit > 0:
		p.add(&of[digit-1])
	case digit < 0:
		p.subtract(&of[-digit-1])
	}
}

// signedDigits writes a scalar below 2^253 with digits of so many bits, from -half to half-1.
func signedDigits(out []int8, scalar []byte, bits uint) {
	var have, carry uint32
	var held uint
	next := 0
	for i := range out {
		for held < bits && next < len(scalar) {
			have |= uint32(scalar[next]) << held
			held += 8
			next++
		}
		digit := have&(1<<bits-1) + carry
		have >>= bits
		held = max(held, bits) - bits
		carry = digit >> (bits - 1)
		out[i] = int8(int32(digit) - int32(carry<<bits))
		if digit == 1<<bits { // it was all ones, and a carry
			out[i], carry = 0, 1
		}
	}
}

// encode returns the encoding of a point (RFC 8032, section 5.1.2) whose z has that inverse.
func (p *point) encode(inverse *field.Element) (out [keySize]byte) {
	var x, y field.Element
	x.Multiply(&p.x, inverse)
	y.Multiply(&p.y, inverse)
	copy(out[:], y.Bytes())
	out[keySize-1] |= byte(x.IsNegative() << 7)
	return out
}
