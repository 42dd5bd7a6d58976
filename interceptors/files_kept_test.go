package interceptors

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

const shownFile = "mxc://remote.example/shown"

// newKeepingWorld is newFileWorld with a memory of checked files, in a room of so many bytes.
func newKeepingWorld(t *testing.T, disk int64) (*world, *fileStore, SyncOptions) {
	t.Helper()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	kept := NewKeptFiles()
	sync := SyncOptions{SpoolDir: t.TempDir(), SpoolDisk: NewSpoolDisk(disk, disk)}.withSpools()
	var err error
	if w.handlers, err = Handlers(Options{Files: kept, Sync: sync}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
		if disk, ram := sync.SpoolDisk.Taken(), sync.spools.RAM.Taken(); disk != 0 || ram != 0 {
			t.Errorf("%d bytes on the disk and %d in memory were not given back", disk, ram)
		}
	})
	return w, store, sync
}

func (f *fileStore) asks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// partOf asks for a byte of the file.
func partOf(uri string) call {
	c := downloadCall(uri)
	c.header = http.Header{"Range": {"bytes=4-4"}}
	return c
}

// A client that shows a film asks for part after part: the homeserver, which sends whole files
// only, sends it once. Another account, and whoever asks five minutes later, asks the homeserver,
// which may have something against it by then.
func TestPartsOfAFileAreFetchedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, store, _ := newKeepingWorld(t, 0)
		w.knows(t, store, shownFile, pngOf(t, 100, 50), "image/png", "a.png")
		parts := func() {
			t.Helper()
			for _, c := range []call{downloadCall(shownFile), partOf(shownFile), partOf(shownFile), thumbnailCall(shownFile, "width=10&height=10"), thumbnailCall(shownFile, "width=10&height=10"), thumbnailCall(shownFile, "width=500&height=500")} {
				if rec, err := w.do(c); err != nil || rec.Body.Len() == 0 {
					t.Fatalf("%s: %d, %v", c.query, rec.Code, err)
				}
			}
		}
		parts()
		if n := store.asks(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
		w.who = Identity{UserID: bob, DeviceID: "OTHER", Token: secret.NewString("bob's")}
		parts()
		if n := store.asks(); n != 2 {
			t.Errorf("another account has what was fetched for the first: %d", n)
		}
		store.mu.Lock()
		store.serve = func(string, []byte) (int, []byte) {
			return http.StatusForbidden, []byte(`{"errcode":"M_FORBIDDEN","error":"no"}`)
		}
		store.mu.Unlock()
		time.Sleep(4 * time.Minute)
		parts()
		time.Sleep(time.Minute + time.Second)
		for _, c := range []call{downloadCall(shownFile), thumbnailCall(shownFile, "width=10&height=10")} {
			if rec, err := w.do(c); err != nil || rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "M_FORBIDDEN") {
				t.Errorf("%s: what the homeserver gives out no more: %d, %v", c.handler, rec.Code, err)
			}
		}
	})
}

// Attack vector: a link to a file (media.links) is used after the homeserver has taken the file
// away, or the room from the account. The thumbnail is in the proxy's memory.
//
// Expected: after five minutes a link asks the homeserver, for thumbnails too.
func TestThumbnailsOfLinksAskAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const uri = "mxc://remote.example/e2eeproxyLINK"
		w, store := newFileWorld(t, e2ee.ModeProxied)
		w.knows(t, store, uri, pngOf(t, 100, 50), "image/png", "a.png")
		w.who = Identity{}
		w.devices.links = map[string]Identity{uri: {UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("of the device")}}
		if rec, err := w.do(thumbnailCall(uri, "width=10&height=10")); err != nil || rec.Code != http.StatusOK {
			t.Fatalf("%d, %v", rec.Code, err)
		}
		store.mu.Lock()
		store.stored = nil
		store.mu.Unlock()
		time.Sleep(5*time.Minute + time.Second)
		if rec, err := w.do(thumbnailCall(uri, "width=10&height=10")); err != nil || rec.Code != http.StatusNotFound {
			t.Errorf("%d, %v", rec.Code, err)
		}
	})
}

// A file whose key was forgotten is not given out, although it is kept; one under the same URI
// with another key, or damaged, is another file, which is fetched and checked.
func TestWhatIsKeptIsTheFileAndItsKey(t *testing.T) {
	t.Parallel()
	w, store, _ := newKeepingWorld(t, 0)
	f := w.knows(t, store, shownFile, secretFile, "image/png", "a.png")
	if rec, err := w.do(downloadCall(shownFile)); err != nil || rec.Body.String() != secretFile {
		t.Fatalf("%v, %s", err, rec.Body)
	}
	f.Key.Hash[0] ^= 1
	if err := w.dev.files.Changed(t.Context(), shownFile, f); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what does not fit is not kept
		_, err := w.do(downloadCall(shownFile))
		wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	}
	if n := store.asks(); n != 3 {
		t.Errorf("fetched %d times", n)
	}
	w.dev.files.mu.Lock()
	delete(w.dev.files.known, shownFile)
	w.dev.files.mu.Unlock()
	if rec, err := w.do(downloadCall(shownFile)); err == nil && rec.Body.String() == secretFile {
		t.Error("a file is given out whose key was forgotten")
	}
}

// Two who ask for one file at a time cost one fetch. Where the first one leaves, the other
// fetches it.
func TestAskingForAFileAtTheSameTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, store, _ := newKeepingWorld(t, 0)
		w.knows(t, store, shownFile, secretFile, "image/png", "a.png")
		w.knows(t, store, "mxc://remote.example/second", secretFile, "image/png", "a.png")
		held := make(chan struct{})
		w.up.arrived = func(seen) { <-held }
		ask := func(all *sync.WaitGroup, c call, whole bool) {
			all.Go(func() {
				rec, err := w.do(c)
				if got := err == nil && rec.Body.String() == secretFile; got != whole {
					t.Errorf("%d %q, %v", rec.Code, rec.Body, err)
				}
			})
		}
		var all sync.WaitGroup
		for range 3 {
			ask(&all, downloadCall(shownFile), true)
		}
		synctest.Wait()
		close(held)
		all.Wait()
		if n := store.asks(); n != 1 {
			t.Errorf("fetched %d times", n)
		}

		held = make(chan struct{})
		ctx, leave := context.WithCancel(t.Context())
		first := downloadCall("mxc://remote.example/second")
		first.ctx = ctx
		w.up.arrived = func(seen) {
			select {
			case <-held:
			case <-ctx.Done():
			}
		}
		ask(&all, first, false)
		synctest.Wait()
		ask(&all, downloadCall("mxc://remote.example/second"), true)
		synctest.Wait()
		leave()
		close(held)
		all.Wait()
		if n := len(w.up.requests()); n != 3 {
			t.Errorf("%d requests, want one, one that was given up, and one", n)
		}
	})
}

// What is kept takes room from nobody: it goes as soon as something else needs the room.
func TestKeptFilesMakeRoom(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	w, store, sync := newKeepingWorld(t, 2*size)
	for _, name := range []string{"a", "b", "c", "d"} {
		uri := "mxc://remote.example/" + name
		w.knows(t, store, uri, strings.Repeat(name, size), "image/png", name)
		if rec, err := w.do(downloadCall(uri)); err != nil || rec.Body.Len() != size {
			t.Fatalf("%s: %d bytes, %v", name, rec.Body.Len(), err)
		}
	}
	if n := sync.SpoolDisk.Taken(); n != 2*size {
		t.Errorf("%d bytes are kept", n)
	}
	other := exchange.Spools{Dir: t.TempDir(), Disk: sync.SpoolDisk}.New(bob, 1)
	if _, err := other.Write(make([]byte, 2*size)); err != nil {
		t.Errorf("for somebody else: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if n := sync.SpoolDisk.Taken(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

// Attack vector: after a large file that was right, whose room on the disk is used again, the homeserver
// returns another one, a part of it, or more than it, which must not be made whole by what was there before.
//
// Expected: an error and not one byte of it, each time; what is right is given out in between.
func TestLargeFilesOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	clear := strings.Repeat("a large file ", 9<<20/13)
	w.knows(t, store, shownFile, clear, "image/png", "a.png")
	bad := map[string]func(string, []byte) (int, []byte){
		"a bit":      func(_ string, d []byte) (int, []byte) { d = []byte(string(d)); d[5<<20] ^= 1; return 200, d },
		"cut off":    func(_ string, d []byte) (int, []byte) { return 200, d[:len(d)-1] },
		"half of it": func(_ string, d []byte) (int, []byte) { return 200, d[:len(d)/2] },
		"more":       func(_ string, d []byte) (int, []byte) { return 200, append([]byte(string(d)), 'x') },
		"zeros":      func(_ string, d []byte) (int, []byte) { return 200, make([]byte, len(d)) },
	}
	for name, serve := range bad {
		store.mu.Lock()
		store.serve = nil
		store.mu.Unlock()
		for range 2 {
			rec, err := w.do(downloadCall(shownFile))
			if err != nil || rec.Body.String() != clear {
				t.Fatalf("before %s: %d bytes, %v", name, rec.Body.Len(), err)
			}
		}
		store.mu.Lock()
		store.serve = serve
		store.mu.Unlock()
		rec, err := w.do(downloadCall(shownFile))
		wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
		if rec.Body.Len() > 0 {
			t.Errorf("%s: the client got %d bytes", name, rec.Body.Len())
		}
	}
}
