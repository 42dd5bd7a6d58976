package media

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

// Files are kept in small numbers, the newest, and for a while. One that somebody reads stays
// whole until that ends, whatever becomes of it; then nothing is left.
func TestHowManyFilesAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ram := budget.New(1<<30, 1<<30)
		k := NewKept()
		keep := func(user id.UserID, n int) *kept {
			s := spool.New(spool.Options{RAM: ram, Owner: string(user), Ciphertext: true})
			if _, err := fmt.Fprint(s, user, n); err != nil {
				t.Fatal(err)
			}
			f, err := k.put(keptName(fmt.Appendf(nil, "%-32s", fmt.Sprint(user, n))), user, s)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		done := func(f *kept) {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		reading := keep("@alice:hs", 0)
		twice := keep("@alice:hs", 0) // fetched by another process of the same file
		done(twice)
		for n := range maxKeptOfUser {
			done(keep("@alice:hs", n+1))
		}
		if _, has := k.get(reading.name); has || len(k.by) != maxKeptOfUser {
			t.Errorf("%d are kept", len(k.by))
		}
		if got, err := io.ReadAll(reading.Reader()); err != nil || string(got) != "@alice:hs0" {
			t.Errorf("what is read: %q, %v", got, err)
		}
		for n := range maxKept {
			done(keep(id.UserID(fmt.Sprintf("@u%d:hs", n)), 0))
		}
		if len(k.by) != maxKept || len(k.of) != maxKept {
			t.Errorf("%d are kept, of %d accounts", len(k.by), len(k.of))
		}
		done(reading)
		time.Sleep(keepFor)
		synctest.Wait()
		if n := ram.Taken(); n != 0 || len(k.by) != 0 || len(k.of) != 0 || k.oldest.Len() != 0 {
			t.Errorf("%d bytes are left, %d files", n, len(k.by))
		}
		reading = keep("@alice:hs", 0)
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		late := keep("@alice:hs", 1)
		if _, has := k.get(late.name); has {
			t.Error("kept after the end")
		}
		if got, err := io.ReadAll(reading.Reader()); err != nil || string(got) != "@alice:hs0" {
			t.Errorf("what is read: %q, %v", got, err)
		}
		done(reading)
		done(late)
		if n := ram.Taken(); n != 0 {
			t.Errorf("%d bytes are left", n)
		}
	})
}
