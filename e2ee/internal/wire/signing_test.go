package wire

import (
	"encoding/base64"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/pk"
)

// The test vectors of the spec (appendices, "Cryptographic Test Vectors", JSON
// signing), for what we sign ourselves (requirement 2.9).
func TestSigningVectors(t *testing.T) {
	t.Parallel()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pk.NewSigningFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	for object, want := range map[string]string{
		`{}`: "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
		`{"two":"Two","signatures":{"domain":{"ed25519:0":"x"}},"one":1,"unsigned":{"age":1}}`: "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
	} {
		msg, err := Signable([]byte(object))
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.Sign(msg)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s: signature %s, want %s", object, got, want)
		}
	}
}
