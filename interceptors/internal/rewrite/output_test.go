package rewrite

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

var errEnded = errors.New("it ended early")

// handed writes parts in another goroutine.
func handed(t *testing.T, end error, all ...string) (*handover, *error) {
	t.Helper()
	h, failed := newHandover(), new(error)
	var wait sync.WaitGroup
	wait.Go(func() {
		for i := 0; i < len(all) && *failed == nil; i += 2 {
			parts := [][]byte{[]byte(all[i])}
			if i+1 < len(all) {
				parts = append(parts, nil, []byte(all[i+1]))
			}
			*failed = h.WriteParts(parts)
		}
		h.end(end)
	})
	t.Cleanup(func() {
		h.leave()
		wait.Wait()
	})
	return h, failed
}

// What is handed over comes in its order, by Read and by WriteTo and by one after the other, and ends as
// its writer said.
func TestHandover(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 30_000)
	for _, end := range []error{nil, errEnded} {
		h, failed := handed(t, end, "a", "bc", "", long, "d")
		var first [2]byte
		if _, err := io.ReadFull(h, first[:]); err != nil || string(first[:]) != "ab" {
			t.Errorf("%s, %v", first, err)
		}
		to := &bytes.Buffer{}
		n, err := (&relayed{[]byte("!"), h, io.NopCloser(nil)}).WriteTo(to)
		if !errors.Is(err, end) || n != int64(to.Len()) || to.String() != "!c"+long+"d" || *failed != nil {
			t.Errorf("%d bytes, %v, %v", to.Len(), err, *failed)
		}
	}
	h, _ := handed(t, nil, "a", "bc", "", long, "d")
	if err := iotest.TestReader(&relayed{[]byte("!"), h, io.NopCloser(nil)}, []byte("!abc"+long+"d")); err != nil {
		t.Error(err)
	}
	h, _ = handed(t, errEnded, "a")
	if got, err := io.ReadAll(h); string(got) != "a" || !errors.Is(err, errEnded) {
		t.Errorf("%q, %v", got, err)
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errEnded
	}
	return len(p), nil
}

// A client that goes away ends who writes, whatever that waits for.
func TestHandoverToNobody(t *testing.T) {
	t.Parallel()
	for _, after := range []int{0, 1, 3, 4} {
		h := newHandover()
		var wait sync.WaitGroup
		var failed error
		wait.Go(func() {
			for failed == nil {
				_, failed = h.Write([]byte("abc"))
			}
			h.end(failed)
		})
		if _, err := (&relayed{[]byte("!"), h, io.NopCloser(nil)}).WriteTo(&failing{after}); !errors.Is(err, errEnded) {
			t.Errorf("after %d: %v", after, err)
		}
		h.leave()
		h.leave()
		wait.Wait()
		if !errors.Is(failed, io.ErrClosedPipe) {
			t.Errorf("after %d: %v", after, failed)
		}
	}
}
