package parallel

import (
	"runtime"
	"sync"
)

// Each calls do for 0 to n-1, on all cores. The calls must not depend on each other.
func Each(n int, do func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n/4+1)
	part := func(w int) {
		for i := n * w / workers; i < n*(w+1)/workers; i++ {
			do(i)
		}
	}
	var others sync.WaitGroup
	for w := 1; w < workers; w++ {
		others.Go(func() { part(w) })
	}
	part(0)
	others.Wait()
}
