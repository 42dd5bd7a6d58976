package interceptors_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"e2ee-proxy/interceptors"
)

// A sync is the same for the client wherever the proxy keeps it meanwhile: in memory, on the disk, or
// first in one and then, because there is no more room, on the other.
func TestSyncIsTheSameWhereverItIsKept(t *testing.T) {
	t.Parallel()
	body := syncBody(3<<20, 500)
	var want []byte
	for _, memory := range []int64{-1, 2 << 20, 4 << 20, 16 << 20} {
		for name, from := range map[string]func() io.Reader{
			"of a known size": func() io.Reader { return bytes.NewReader(body) },
			"in pieces":       func() io.Reader { return iotest.HalfReader(bytes.NewReader(body)) },
		} {
			w := newSyncWorld(t, "", interceptors.SyncOptions{SpoolMemory: memory})
			w.up.body = from
			out, err := w.sync(t, "since=s1")
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = out.Body.Bytes()
			}
			if got := out.Body.Bytes(); !bytes.Equal(got, want) || len(got) < len(body)/2 {
				t.Errorf("%s, %d bytes of memory: %d bytes instead of %d", name, memory, len(got), len(want))
			}
		}
	}
	for _, memory := range []int64{-1, 2 << 20, 16 << 20} {
		for _, end := range []int{700 << 10, 1<<20 + 7, 2 << 20} {
			w := newSyncWorld(t, "", interceptors.SyncOptions{SpoolMemory: memory})
			w.up.body = func() io.Reader {
				return io.MultiReader(bytes.NewReader(body[:end]), iotest.ErrReader(fmt.Errorf("cut off at %d", end)))
			}
			if _, err := w.sync(t, "since=s1"); err == nil || len(w.dev.committed) > 0 {
				t.Errorf("%d bytes of memory, cut off at %d: %v, %d committed", memory, end, err, len(w.dev.committed))
			}
		}
	}
}
