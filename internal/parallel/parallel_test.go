package parallel_test

import (
	"sync/atomic"
	"testing"

	"e2ee-proxy/internal/parallel"
)

// Each number is called with once, however many there are, and all calls have returned.
func TestEachIsCalledOnce(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 3, 4, 5, 31, 32, 33, 100, 1000, 1001} {
		called := make([]atomic.Int32, n)
		parallel.Each(n, func(i int) { called[i].Add(1) })
		for i := range called {
			if got := called[i].Load(); got != 1 {
				t.Errorf("of %d, %d was called with %d times", n, i, got)
			}
		}
	}
}
