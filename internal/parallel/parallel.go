package parallel

import (
	"runtime"
	"sync/atomic"
)

// shares is into how many parts each core's work is divided, so that one that is busy with something
// else leaves its own to the others.
const shares = 16

// Each calls do for 0 to n-1, on all cores. The calls must not depend on each other. It panics if one
// of them does.
func Each(n int, do func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n/4+1)
	if workers == 1 {
		for i := range n {
			do(i)
		}
		return
	}
	size := max(1, n/(workers*shares))
	var next atomic.Int64
	work := func() {
		for {
			to := int(next.Add(int64(size)))
			for i := to - size; i < min(to, n); i++ {
				do(i)
			}
			if to >= n {
				return
			}
		}
	}
	var others Group
	for range workers - 1 {
		others.Go(work)
	}
	defer others.Wait()
	work()
}
