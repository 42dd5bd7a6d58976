package rediscache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/internal/testredis"
)

// What a look-up costs: of one token, of the devices of a thousand users at once, and while Redis
// does not answer.
func BenchmarkGet(b *testing.B) {
	address, err := ParseAddress(testredis.Start(b).URL())
	if err != nil {
		b.Fatal(err)
	}
	c, err := New(Options{Address: address, Timeout: testTimeout, Hash: hashOf("root"), Homeserver: "https://hs", Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	c.startHearing(time.Now().Add(-time.Minute))
	value := make([]byte, 2000)
	var keys []Key
	for i := range 1000 {
		e := Entry{Key: token(fmt.Sprint(i)), Value: value, Made: time.Now(), Until: time.Now().Add(time.Hour)}
		c.Put(b.Context(), e)
		keys = append(keys, e.Key)
	}
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if found := c.Get(context.Background(), keys[:n]...); found[n-1].Value == nil {
					b.Fatal("not found")
				}
			}
		})
	}
	b.Run("gone", func(b *testing.B) {
		c.breaker.failures.Store(failuresToOpen)
		for b.Loop() {
			c.Get(context.Background(), keys[0])
		}
	})
}
