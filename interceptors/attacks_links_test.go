package interceptors

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Attack vector: a client that sends no token is answered in the name of the device that was
// shown the link. Somebody asks without a link, or asks with one for something else than the
// link's file: as another user, with a token that is not valid.
//
// Expected: a link gives its file, whole or in part, on all endpoints, asked for with the
// device's own token and in nobody else's name; without one it is 401, and the homeserver is
// not asked.
func TestLinksGiveTheirFileAndNothingElse(t *testing.T) {
	t.Parallel()
	const uri = "mxc://remote.example/e2eeproxyLINK"
	w, store := newFileWorld(t, e2ee.ModeProxied)
	w.knows(t, store, uri, secretFile, "image/png", "a.png")
	w.who = Identity{}
	ask := downloadCall(uri)
	ask.query = "user_id=%40bob%3Ahs&device_id=X&org.matrix.msc3202.device_id=X"
	older := ask
	older.version, older.pattern = "v3", "/_matrix/media/{version}/download/{serverName}/{mediaId}"

	_, err := w.do(ask)
	wantError(t, err, http.StatusUnauthorized, "M_MISSING_TOKEN")
	w.devices.links = map[string]Identity{uri: {UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("of the device")}}
	w.who = Identity{Token: secret.NewString("not valid")}
	_, err = w.do(ask)
	wantError(t, err, http.StatusUnauthorized, "M_MISSING_TOKEN")
	w.wantNothingUpstream()
	w.who = Identity{}

	part := ask
	part.header = http.Header{"Range": {"bytes=4-8"}}
	for want, c := range map[string]call{secretFile: ask, secretFile[4:9]: part} {
		for _, at := range []call{c, {handler: c.handler, method: c.method, version: older.version, pattern: older.pattern, params: c.params, query: c.query, header: c.header}} {
			rec, err := w.do(at)
			if err != nil || rec.Body.String() != want || rec.Header().Get("Content-Type") != "image/png" || !strings.Contains(rec.Header().Get("Cache-Control"), "private") {
				t.Errorf("%v, %d %q %v", err, rec.Code, rec.Body, rec.Header())
			}
		}
	}
	for i, s := range w.up.requests() {
		if s.query != "" || strings.Contains(s.path, "e2eeproxy") || w.up.tokens[i] != "Bearer of the device" {
			t.Errorf("the homeserver was asked %s ?%s with %q", s.path, s.query, w.up.tokens[i])
		}
	}
	asked := len(w.up.requests())
	small := ask
	small.handler, small.pattern = ThumbnailFile, "/media/thumbnail/{serverName}/{mediaId}"
	small.query = "width=10&height=10"
	_, err = w.do(small)
	wantError(t, err, http.StatusBadRequest, "M_UNKNOWN") // it is no picture; the file was fetched for it
	if got := len(w.up.requests()); got != asked+1 {
		t.Errorf("a thumbnail made %d requests", got-asked)
	}

	w.devices.err = errors.New("the disk is full")
	if rec, err := w.do(ask); err == nil || rec.Body.Len() > 0 {
		t.Errorf("whose link it is is not known: %v, %s", err, rec.Body)
	}
	w.devices.err = nil
	w.dev.mode = e2ee.ModeLost
	_, err = w.do(ask)
	wantError(t, err, http.StatusUnauthorized, "M_MISSING_TOKEN")
	if got := len(w.up.requests()); got != asked+1 {
		t.Errorf("refused, and %d requests were made", got-asked)
	}
}
