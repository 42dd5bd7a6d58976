package store

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
)

// Hashes are made at the same time, one after the other with what the one before used, and of any
// length: each is what it would be alone.
func TestHashOfManyAtOnce(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, liteURL(t)))
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 200 {
				data := fmt.Appendf(nil, "%*d", n*i, i)
				h := hmac.New(sha256.New, db.root)
				h.Write(append([]byte("\x05token"), data...))
				if got := db.Hash("token", data); string(got[:]) != string(h.Sum(nil)) {
					t.Errorf("%d bytes have another hash", len(data))
				}
			}
		})
	}
	all.Wait()
}
