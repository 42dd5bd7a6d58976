package interceptors

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
)

// Attack vector: a file of a hundred bytes says that it is a picture of four thousand million
// pixels; another is cut off, or is no picture at all. A client shows a thumbnail of whatever
// comes, or sends the picture on.
//
// Expected: a thumbnail of the first is 413, of the others 400, each time, without memory for what
// is not there; the file itself is downloaded as it is, and a message that names it is sent
// without a thumbnail.
func TestHostilePicturesThroughTheProxy(t *testing.T) { //nolint:paralleltest // it measures what is allocated
	header := func(width, height uint32) string {
		h := []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR")
		h = binary.BigEndian.AppendUint32(h, width)
		h = binary.BigEndian.AppendUint32(h, height)
		return string(h) + "\x08\x06\x00\x00\x00" + strings.Repeat("\x00", 54)
	}
	for name, row := range map[string]struct {
		file   string
		status int
		code   string
	}{
		"too many pixels": {header(65535, 65535), http.StatusRequestEntityTooLarge, apierr.CodeTooLarge},
		"cut off":         {header(1000, 1000), http.StatusBadRequest, apierr.CodeUnknown},
		"no picture":      {"<svg onload=alert(1)>", http.StatusBadRequest, apierr.CodeUnknown},
		"nothing":         {"", http.StatusBadRequest, apierr.CodeUnknown},
	} {
		w, store := newFileWorld(t, e2ee.ModeProxied)
		w.knows(t, store, "mxc://remote.example/shown", row.file, "image/png", "a.png")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 3 {
			rec, err := w.do(thumbnailCall("mxc://remote.example/shown", "width=640&height=480"))
			wantError(t, err, row.status, row.code)
			if rec.Body.Len() > 0 {
				t.Errorf("%s: answered %q", name, rec.Body)
			}
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("%s: three thumbnails took %d bytes", name, got)
		}
		if rec, err := w.do(downloadCall("mxc://remote.example/shown")); err != nil || rec.Body.String() != row.file {
			t.Errorf("%s: downloaded is %q, %v", name, rec.Body, err)
		}
		uri := w.upload(row.file)
		if _, err := w.do(sendCall(encryptedRoom, "m.room.message", `{"msgtype":"m.image","body":"x","url":"`+uri+`"}`)); err != nil || strings.Contains(w.dev.outgoing[0], "thumbnail") {
			t.Errorf("%s: %v, sent %s", name, err, w.dev.outgoing)
		}
	}
}

// Attack vector: somebody sends a very large file, or a homeserver never stops returning one, to
// fill the proxy's disk, or all of it that there is for one account.
//
// Expected: what is larger than one account may have kept is refused with words that say which
// setting that is, what has no room for the moment with 429, not one byte of it goes to the
// client, and the room is free again afterwards.
func TestFilesOverTheBoundOfTheSpool(t *testing.T) {
	t.Parallel()
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	for name, row := range map[string]struct {
		total, perUser int64
		taken          int64
		status         int
		code           string
	}{
		"more than one account may": {total: 64 << 20, perUser: 2 << 20, status: http.StatusBadGateway, code: apierr.CodeTooLarge},
		"no room now":               {total: 4 << 20, perUser: 4 << 20, taken: 3 << 20, status: http.StatusTooManyRequests, code: apierr.CodeLimitExceeded},
	} {
		disk := NewSpoolDisk(row.total, row.perUser)
		if row.taken > 0 {
			if err := disk.Take("@other:hs", row.taken); err != nil {
				t.Fatal(err)
			}
		}
		w, store := withOptions(t, e2ee.ModeProxied, Options{Sync: SyncOptions{SpoolDir: t.TempDir(), SpoolDisk: disk}}), &fileStore{}
		w.up.respond = store.respond
		w.knows(t, store, "mxc://remote.example/shown", string(big), "image/png", "a.png")
		w.knows(t, store, "mxc://remote.example/small", secretFile, "image/png", "a.png")
		for _, c := range []call{downloadCall("mxc://remote.example/shown"), thumbnailCall("mxc://remote.example/shown", "width=10&height=10")} {
			rec, err := w.do(c)
			e := shown(t, err, row.status, row.code)
			if rec.Body.Len() > 0 || row.status == http.StatusBadGateway && !strings.Contains(e.Hint, "limits.spool_disk_per_user") {
				t.Errorf("%s: %d bytes, %q", name, rec.Body.Len(), e.Hint)
			}
		}
		if disk.Taken() != row.taken {
			t.Errorf("%s: %d bytes stay taken", name, disk.Taken()-row.taken)
		}
		if rec, err := w.do(downloadCall("mxc://remote.example/small")); err != nil || !bytes.Equal(rec.Body.Bytes(), []byte(secretFile)) {
			t.Errorf("%s: a small one: %v", name, err)
		}
	}
}

// Attack A27, matrix-spec#2324: one ciphertext is sent under two keys, once as a picture. Whoever is
// shown the second is not given the thumbnail of the first, which is kept here.
func TestThumbnailOfAnotherMeaning(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*attachment.File){
		"another key":     func(f *attachment.File) { f.Key.Secret[0] ^= 1 },
		"another counter": func(f *attachment.File) { f.Key.Counter[0] ^= 1 },
	} {
		w, store := newFileWorld(t, e2ee.ModeProxied)
		f := w.knows(t, store, "mxc://remote.example/first", pngOf(t, 1000, 500), "image/png", "a.png")
		change(&f)
		if err := w.dev.files.Changed(t.Context(), "mxc://remote.example/second", f); err != nil {
			t.Fatal(err)
		}
		const query = "width=100&height=100&method=scale"
		if rec, err := w.do(thumbnailCall("mxc://remote.example/first", query)); err != nil || rec.Body.Len() == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		rec, err := w.do(thumbnailCall("mxc://remote.example/second", query))
		wantError(t, err, http.StatusBadRequest, apierr.CodeUnknown)
		if rec.Body.Len() > 0 {
			t.Errorf("%s: it is shown the thumbnail of the other", name)
		}
	}
}
