package signkey_test

import (
	"bytes"
	"math/big"
	"slices"
	"testing"

	"filippo.io/edwards25519"

	"e2ee-proxy/internal/signkey"
)

// Of the encodings of a point only the one that the specification names is taken, and no point of
// small order.
func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	var tried [3]int // in another encoding, of small order, taken
	for _, from := range []*big.Int{new(big.Int), new(big.Int).Sub(p, big.NewInt(20)), p} {
		for i := range int64(19) {
			y := new(big.Int).Add(from, big.NewInt(i)).FillBytes(make([]byte, 32))
			slices.Reverse(y)
			for _, sign := range []byte{0, 0x80} {
				raw := bytes.Clone(y)
				raw[31] |= sign
				_, err := signkey.NewKey(raw)
				point, none := new(edwards25519.Point).SetBytes(raw)
				switch {
				case none != nil:
				case !bytes.Equal(point.Bytes(), raw):
					tried[0]++
				case new(edwards25519.Point).MultByCofactor(point).Equal(edwards25519.NewIdentityPoint()) == 1:
					tried[1]++
				default:
					tried[2]++
					if err != nil {
						t.Errorf("%x is refused", raw)
					}
					continue
				}
				if err == nil {
					t.Errorf("%x is taken", raw)
				}
			}
		}
	}
	if slices.Min(tried[:]) < 3 {
		t.Errorf("tried were %v", tried)
	}
}
