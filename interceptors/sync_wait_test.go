package interceptors_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/interceptors"
)

// Reported: the first sync of a new login shows every old event as undecryptable. It may wait
// for keys that the backup has, all its events together no longer than the bound; later
// syncs never wait, and it is their events that may be held.
func TestSyncWaitsForKeysOnce(t *testing.T) {
	t.Parallel()
	const room = `{"timeline":{"events":[{"type":"m.room.encrypted","content":{"ciphertext":"x","pad":"PAD"}}]}}`
	pad := strings.Repeat("x", 300<<10) // two of them fill a batch
	var rooms []string
	for _, name := range []string{"!a:hs", "!b:hs", "!c:hs", "!d:hs", "!e:hs", "!f:hs"} {
		rooms = append(rooms, `"`+name+`":`+strings.ReplaceAll(room, "PAD", pad))
	}
	body := `{"next_batch":"s2","rooms":{"join":{` + strings.Join(rooms, ",") + `}}}`
	synctest.Test(t, func(t *testing.T) {
		w := newSyncWorld(t, body, interceptors.SyncOptions{KeyWait: 2 * time.Second})
		w.dev.opening = func() { time.Sleep(1500 * time.Millisecond) }
		if _, err := w.sync(t, ""); err != nil {
			t.Fatal(err)
		}
		if len(w.dev.batches) < 3 {
			t.Fatalf("opened in %v", w.dev.batches)
		}
		at := 0
		for i, n := range w.dev.batches {
			want := []time.Duration{2 * time.Second, 500 * time.Millisecond, 0, 0, 0, 0}[i]
			for ; n > 0; n-- {
				if in := w.dev.in[at]; in.Wait != want || in.Hold {
					t.Errorf("batch %d waits %v, may be held: %v", i, in.Wait, in.Hold)
				}
				at++
			}
		}
		w.dev.in = nil
		if _, err := w.sync(t, "since=s1"); err != nil {
			t.Fatal(err)
		}
		for _, in := range w.dev.in {
			if in.Wait != 0 || !in.Hold {
				t.Errorf("a later sync waits %v, may be held: %v", in.Wait, in.Hold)
			}
		}
	})
}
