package interceptors

import (
	"bytes"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

func pngOf(t *testing.T, width, height int) string {
	t.Helper()
	p := image.NewGray(image.Rect(0, 0, width, height))
	p.SetGray(width/2, height/2, color.Gray{Y: 200})
	var out bytes.Buffer
	if err := png.Encode(&out, p); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func thumbnailCall(uri, query string) call {
	c := downloadCall(uri)
	c.handler, c.pattern, c.query = ThumbnailFile, "/media/thumbnail/{serverName}/{mediaId}", query
	return c
}

// Thumbnails of encrypted pictures are made here, of the checked picture, and the homeserver, which
// could not, is not asked for one. A picture that is small already comes as it is.
func TestThumbnailsOfEncryptedPictures(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	w.knows(t, store, "mxc://remote.example/shown", pngOf(t, 1000, 500), "image/png", "a.png")
	w.knows(t, store, "mxc://remote.example/text", "no picture", "image/png", "a.png")
	for query, want := range map[string]image.Point{
		"width=100&height=100&method=scale": {X: 100, Y: 50}, "width=100&height=100&method=crop": {X: 100, Y: 100}, "width=2000&height=2000": {X: 1000, Y: 500},
	} {
		for range 2 { // the second time from memory
			rec, err := w.do(thumbnailCall("mxc://remote.example/shown", query))
			if err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			got, _, err := image.DecodeConfig(rec.Body)
			if err != nil || got.Width != want.X || got.Height != want.Y || !strings.HasPrefix(rec.Header().Get("Content-Security-Policy"), "sandbox") {
				t.Errorf("%s: %d×%d, %v, %v", query, got.Width, got.Height, err, rec.Header())
			}
		}
	}
	if n := len(store.asked); n != 4 { // the one that is not made is fetched each time
		t.Errorf("the picture was fetched %d times", n)
	}
	for _, path := range store.asked {
		if strings.Contains(path, "/thumbnail/") {
			t.Errorf("the homeserver was asked for %s", path)
		}
	}
	_, err := w.do(thumbnailCall("mxc://remote.example/text", "width=10&height=10"))
	wantError(t, err, http.StatusBadRequest, apierr.CodeUnknown)
	_, err = w.do(thumbnailCall("mxc://remote.example/shown", "width=x"))
	wantError(t, err, http.StatusBadRequest, apierr.CodeInvalidParam)
}

// A picture that a plain client sends without a thumbnail gets one, encrypted as the picture is, at
// most 800 × 600 (MSC4409); a small one gets none. A repeated send says the same again.
func TestPicturesAreSentWithThumbnails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file string
		w, h int
	}{"large": {pngOf(t, 1600, 900), 800, 450}, "small": {pngOf(t, 400, 300), 0, 0}, "no picture": {"bytes " + canary, 0, 0}} {
		w, store := newFileWorld(t, e2ee.ModeProxied)
		uri := w.upload(tt.file)
		content := `{"msgtype":"m.image","body":"a.png","url":"` + uri + `","info":{"mimetype":"image/png","size":7}}`
		for _, txn := range []string{"1", "2"} {
			c := sendCall(encryptedRoom, "m.room.message", content)
			c.params["txnId"] = txn
			if _, err := w.do(c); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		w.wantNoClearText()
		if w.dev.outgoing[0] != w.dev.outgoing[1] {
			t.Errorf("%s: first %s, then %s", name, w.dev.outgoing[0], w.dev.outgoing[1])
		}
		var got struct {
			Info struct {
				Size int `json:"size"`
				File *struct {
					URL string `json:"url"`
				} `json:"thumbnail_file"`
				Thumbnail struct {
					W int `json:"w"`
					H int `json:"h"`
				} `json:"thumbnail_info"`
			} `json:"info"`
		}
		if err := json.Unmarshal([]byte(w.dev.outgoing[0]), &got); err != nil {
			t.Fatal(err)
		}
		if got.Info.Size != 7 || (got.Info.File != nil) != (tt.w > 0) || got.Info.Thumbnail.W != tt.w || got.Info.Thumbnail.H != tt.h {
			t.Errorf("%s: encrypted was %s", name, w.dev.outgoing[0])
		}
		want := 1
		if tt.w > 0 {
			want = 2
		}
		if store.count() != want {
			t.Errorf("%s: the homeserver has %d files, want %d", name, store.count(), want)
		}
		for id, data := range store.stored {
			if strings.Contains(string(data), "PNG") || strings.HasPrefix(string(data), "\xff\xd8") {
				t.Errorf("%s: %s is in clear", name, id)
			}
		}
	}
}

// The pictures of a gallery (MSC4274) get thumbnails like one that is sent alone; what is no picture,
// is small, or has a thumbnail does not, and every item stays in its place.
func TestPicturesOfAGalleryAreSentWithThumbnails(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	large, small, film := w.upload(pngOf(t, 1600, 900)), w.upload(pngOf(t, 40, 30)), w.upload("a film")
	item := func(kind, body, uri, info string) string {
		return `{"itemtype":"` + kind + `","body":"` + body + `","url":"` + uri + `","info":` + info + `}`
	}
	content := `{"msgtype":"dm.filament.gallery","body":"x","itemtypes":[` + item("m.image", "0", large, `{"w":1600}`) + `,` + item("m.image", "1", small, `{}`) +
		`,` + item("m.video", "2", film, `{}`) + `,` + item("m.image", "3", large, `{"thumbnail_url":"`+small+`"}`) + `]}`
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", content)); err != nil {
		t.Fatal(err)
	}
	w.wantNoClearText()
	var got struct {
		Items []struct {
			Body string          `json:"body"`
			URL  string          `json:"url"`
			File json.RawMessage `json:"file"`
			Info struct {
				W    int `json:"w"`
				File *struct {
					URL string `json:"url"`
				} `json:"thumbnail_file"`
				Thumbnail struct {
					W int `json:"w"`
				} `json:"thumbnail_info"`
			} `json:"info"`
		} `json:"itemtypes"`
	}
	if err := json.Unmarshal([]byte(w.dev.outgoing[0]), &got); err != nil || len(got.Items) != 4 {
		t.Fatalf("%v: encrypted was %s", err, w.dev.outgoing[0])
	}
	for i, it := range got.Items {
		made := it.Info.Thumbnail.W == 800
		if it.Body != strconv.Itoa(i) || it.URL != "" || it.File == nil || made != (i == 0) || (it.Info.File != nil) != (i == 0 || i == 3) {
			t.Errorf("item %d is %+v", i, it)
		}
	}
	if it := got.Items[0]; it.Info.W != 1600 || it.Info.File.URL != "mxc://hs.example/m4" || store.count() != 4 {
		t.Errorf("encrypted was %s; the homeserver has %d files", w.dev.outgoing[0], store.count())
	}
}
