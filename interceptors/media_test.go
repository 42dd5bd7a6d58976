package interceptors

import (
	"errors"
	"net/http"
	"testing"

	"e2ee-proxy/e2ee"
)

func withOptions(t *testing.T, mode e2ee.Mode, o Options) *world {
	t.Helper()
	w := newWorld(t, mode)
	handlers, err := Handlers(o)
	if err != nil {
		t.Fatal(err)
	}
	w.handlers = handlers
	return w
}

// Attack vector: a homeserver learns what an encrypted message links to, because the client
// that was shown its clear text asks for a preview of the page.
//
// Expected: an empty preview, and no request; a device that has keys of its own, or none at
// all, was shown nothing by the proxy, and its requests pass.
func TestLinksInMessagesStayHere(t *testing.T) {
	t.Parallel()
	paths := map[string]string{"v3": "/_matrix/media/{version}/preview_url", "v1": "/media/preview_url"}
	for version, pattern := range paths {
		ask := call{handler: PreviewURL, method: http.MethodGet, version: version, pattern: pattern, query: "url=https%3A%2F%2F" + canary}
		for mode, passes := range map[e2ee.Mode]bool{
			e2ee.ModeProxied: false, e2ee.ModeLost: false, e2ee.ModeUnknown: false, e2ee.ModeForeign: true, e2ee.ModeNone: true,
		} {
			w := newWorld(t, mode)
			rec, err := w.do(ask)
			if err != nil || rec.Code != http.StatusOK {
				t.Fatalf("%v: %d %v", mode, rec.Code, err)
			}
			if got := len(w.up.requests()); (got == 1) != passes || got > 1 {
				t.Errorf("%v: %d requests went up", mode, got)
			}
			if !passes && (rec.Body.String() != "{}" || rec.Header().Get("Content-Type") != "application/json") {
				t.Errorf("%v: the answer is %s %s", mode, rec.Header(), rec.Body)
			}
		}
		w := withOptions(t, e2ee.ModeProxied, Options{URLPreviews: true})
		if _, err := w.do(ask); err != nil || len(w.up.requests()) != 1 {
			t.Errorf("media.url_previews: pass: %v, %d requests", err, len(w.up.requests()))
		}
		w = newWorld(t, e2ee.ModeForeign)
		w.devices.err = errors.New("whose device it is cannot be told")
		if _, err := w.do(ask); err == nil || len(w.up.requests()) != 0 {
			t.Errorf("a device that is not known: %v, %d requests", err, len(w.up.requests()))
		}
	}
}

// A client asks how large a file may be and is told what passes both the proxy and the
// homeserver; what else the homeserver says stays, and so does its refusal.
func TestMediaConfigFitsBoth(t *testing.T) {
	t.Parallel()
	const own = 1000
	for _, row := range []struct {
		name   string
		status int
		answer string
		broken error
		want   string
	}{
		{name: "the homeserver's is smaller", answer: `{"m.upload.size":999,"x":[1]}`, want: `{"m.upload.size":999,"x":[1]}`},
		{name: "the proxy's is smaller", answer: `{"x":[1],"m.upload.size":1001}`, want: `{"x":[1],"m.upload.size":1000}`},
		{name: "the same", answer: `{"m.upload.size":1e3}`, want: `{"m.upload.size":1e3}`},
		{name: "no number", answer: `{"m.upload.size":"1","x":1}`, want: `{"m.upload.size":1000,"x":1}`},
		{name: "null", answer: `{"m.upload.size":null}`, want: `{"m.upload.size":1000}`},
		{name: "less than nothing", answer: `{"m.upload.size":-1}`, want: `{"m.upload.size":1000}`},
		{name: "more than a number holds", answer: `{"m.upload.size":1e99}`, want: `{"m.upload.size":1000}`},
		{name: "not said", answer: `{}`, want: `{"m.upload.size":1000}`},
		{name: "said twice", answer: `{"m.upload.size":1,"m.upload.size":2}`, want: `{"m.upload.size":1000}`},
		{name: "no JSON", answer: `<html>`, want: `{"m.upload.size":1000}`},
		{name: "down", status: http.StatusBadGateway, answer: `<html>`, want: `{"m.upload.size":1000}`},
		{name: "no answer", broken: errors.New("connection refused"), want: `{"m.upload.size":1000}`},
		{name: "a refusal", status: http.StatusUnauthorized, answer: `{"errcode":"M_UNKNOWN_TOKEN"}`, want: `{"errcode":"M_UNKNOWN_TOKEN"}`},
		{name: "too often", status: http.StatusTooManyRequests, answer: `{"errcode":"M_LIMIT_EXCEEDED"}`, want: `{"errcode":"M_LIMIT_EXCEEDED"}`},
	} {
		for version, pattern := range map[string]string{"v3": "/_matrix/media/{version}/config", "v1": "/media/config"} {
			w := withOptions(t, e2ee.ModeProxied, Options{MaxUpload: own})
			w.up.broken = row.broken
			status := http.StatusOK
			if row.status != 0 {
				status = row.status
			}
			w.up.respond = func(seen) (int, string) { return status, row.answer }
			rec, err := w.do(call{handler: MediaConfig, method: http.MethodGet, version: version, pattern: pattern})
			code := http.StatusOK
			if status/100 == 4 {
				code = status
			}
			if err != nil || rec.Code != code || rec.Body.String() != row.want {
				t.Errorf("%s: %d %s %v, want %s", row.name, rec.Code, rec.Body, err, row.want)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].method != http.MethodGet {
				t.Errorf("%s: upstream saw %+v", row.name, got)
			}
		}
	}
}
