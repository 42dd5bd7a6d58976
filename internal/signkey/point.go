package signkey

import (
	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// point is a point (X:Y:Z:T) with x = X/Z, y = Y/Z and xy = T/Z.
type point struct{ x, y, z, t field.Element }

// identity is the neutral point.
func identity() (p point) {
	p.y.One()
	p.z.One()
	return p
}

// addend is a point as it is added: y+x, y-x and 2dxy.
type addend struct{ plus, minus, xy2d field.Element }

// add adds q. The formulas (Hisil, Wong, Carter, Dawson 2008, section 3.1) hold for all points of
// the curve, also for those of small order.
func (p *point) add(q *addend) { p.sum(&q.plus, &q.minus, &q.xy2d, false) }

// subtract subtracts q.
func (p *point) subtract(q *addend) { p.sum(&q.minus, &q.plus, &q.xy2d, true) }

func (p *point) sum(plus, minus, xy2d *field.Element, negated bool) {
	var a, b, c, d, e, f, g, h field.Element
	a.Multiply(a.Subtract(&p.y, &p.x), minus)
	b.Multiply(b.Add(&p.y, &p.x), plus)
	c.Multiply(&p.t, xy2d)
	d.Add(&p.z, &p.z)
	e.Subtract(&b, &a)
	h.Add(&b, &a)
	if negated {
		f.Add(&d, &c)
		g.Subtract(&d, &c)
	} else {
		f.Subtract(&d, &c)
		g.Add(&d, &c)
	}
	p.x.Multiply(&e, &f)
	p.y.Multiply(&g, &h)
	p.t.Multiply(&e, &h)
	p.z.Multiply(&f, &g)
}

// double doubles a point n times. Its t is right after the last time.
func (p *point) double(n int) {
	var a, b, c, e, f, g, h field.Element
	for i := range n {
		a.Square(&p.x)
		b.Square(&p.y)
		c.Square(&p.z)
		c.Add(&c, &c)
		e.Add(&p.x, &p.y)
		e.Square(&e)
		h.Add(&a, &b)
		e.Subtract(&e, &h) // 2xy
		g.Subtract(&b, &a)
		f.Subtract(&g, &c)
		h.Negate(&h)
		p.x.Multiply(&e, &f)
		p.y.Multiply(&g, &h)
		p.z.Multiply(&f, &g)
		if i == n-1 {
			p.t.Multiply(&e, &h)
		}
	}
}

// addends returns points as addends. It needs one inversion for all of them.
func addends(all []edwards25519.Point, d2 *field.Element) []addend {
	out := make([]addend, len(all))
	before := make([]field.Element, len(all)) // the product of z of all before
	product := *new(field.Element).One()
	for i := range all {
		_, _, z, _ := all[i].ExtendedCoordinates()
		before[i] = product
		product.Multiply(&product, z)
	}
	inverse := *new(field.Element).Invert(&product)
	for i := len(all) - 1; i >= 0; i-- {
		x, y, z, _ := all[i].ExtendedCoordinates()
		var zInverse field.Element
		zInverse.Multiply(&inverse, &before[i])
		inverse.Multiply(&inverse, z)
		x.Multiply(x, &zInverse)
		y.Multiply(y, &zInverse)
		out[i].plus.Add(y, x)
		out[i].minus.Subtract(y, x)
		out[i].xy2d.Multiply(x, y)
		out[i].xy2d.Multiply(&out[i].xy2d, d2)
	}
	return out
}

// twiceD returns 2d, where d = -121665/121666 is the constant of the curve.
func twiceD() *field.Element {
	var n, d field.Element
	d.Invert(d.Mult32(d.One(), 121666))
	n.Negate(n.Mult32(n.One(), 121665))
	d.Multiply(&n, &d)
	return d.Add(&d, &d)
}

// multiples returns, for each of n places, the first half of a radix's digits times the
// point at that place: one place is 2^step times the one before.
func multiples(of *edwards25519.Point, n, step, half int) []addend {
	all := make([]edwards25519.Point, 0, n*half)
	at := *new(edwards25519.Point).Set(of)
	for range n {
		one := at
		for range half {
			all = append(all, one)
			one.Add(&one, &at)
		}
		for range step {
			at.Add(&at, &at)
		}
	}
	return addends(all, twiceD())
}
