package signkey

import (
	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// Verifier checks signatures of one key: a [Key], or faster a [Table].
type Verifier interface {
	Verify(message, signature []byte) bool
	verifies()
}

func (*Key) verifies()   {}
func (*Table) verifies() {}

// Check is a signature to be checked.
type Check struct {
	By                 Verifier // nil: it is refused
	Message, Signature []byte
}

func pointOf(p *edwards25519.Point) point {
	x, y, z, t := p.ExtendedCoordinates()
	return point{x: *x, y: *y, z: *z, t: *t}
}

// VerifyAll reports of each signature whether it is valid. Each is computed in full and compared
// for itself, so that it is accepted if it is alone and however many others are wrong; what they
// have in common is the inversion that comes before encoding, which takes as long as a quarter of
// all the rest.
func VerifyAll(all []Check) []bool {
	valid := make([]bool, len(all))
	points := make([]point, 0, len(all))
	of := make([]int, 0, len(all))
	for i, c := range all {
		var challenge, s edwards25519.Scalar
		switch by := c.By.(type) {
		case *Table:
			if by.key.read(c.Message, c.Signature, &challenge, &s) {
				points, of = append(points, by.combine(challenge.Bytes(), s.Bytes())), append(of, i)
			}
		case *Key:
			if by.read(c.Message, c.Signature, &challenge, &s) {
				points, of = append(points, pointOf(by.combine(&challenge, &s))), append(of, i)
			}
		}
	}
	inverses := invertAll(points)
	for n, i := range of {
		encoded := points[n].encode(&inverses[n])
		valid[i] = string(encoded[:]) == string(all[i].Signature[:keySize])
	}
	return valid
}

// invertAll returns the inverse of z of each point. That is never zero, for any point of the curve.
func invertAll(points []point) []field.Element {
	inverses := make([]field.Element, len(points))
	product := *new(field.Element).One()
	for i := range points {
		inverses[i] = product // of those before it
		product.Multiply(&product, &points[i].z)
	}
	product.Invert(&product)
	for i := len(points) - 1; i >= 0; i-- {
		inverses[i].Multiply(&inverses[i], &product)
		product.Multiply(&product, &points[i].z)
	}
	return inverses
}
