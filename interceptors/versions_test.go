package interceptors

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Report: a client that knows sliding sync finds in /versions that the homeserver has it, uses
// it, and gets nothing, because the proxy does not let it pass.
//
// Expected: no form of it is named, with or without a token; everything else is as the
// homeserver says it.
func TestVersionsWithoutSlidingSync(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"versions":["v1.11"],"unstable_features":{"org.matrix.simplified_msc3575":true,"org.matrix.msc4140":true,"org.matrix.msc3575":true},"server":{"name":"x"}}`: `{"versions":["v1.11"],"unstable_features":{"org.matrix.msc4140":true},"server":{"name":"x"}}`,
		`{"versions":["v1.11"],"unstable_features":{"org.matrix.msc4186":true,"org.matrix.msc4186.stable":true}}`:                                                     `{"versions":["v1.11"],"unstable_features":{}}`,
		`{"versions":["v1.1"]}`:                                `{"versions":["v1.1"]}`,
		`{"unstable_features":null}`:                           `{"unstable_features":null}`,
		`<html>this is no homeserver</html>`:                   `<html>this is no homeserver</html>`,
		`{"unstable_features":["org.matrix.x"],"versions":[]}`: `{"unstable_features":["org.matrix.x"],"versions":[]}`,
	} {
		for _, who := range []Identity{{}, {UserID: alice, DeviceID: "DEVICE"}} {
			w := newWorld(t, e2ee.ModeProxied)
			w.who = who
			w.up.versions = answer
			w.devices.err = errors.New("no device is looked up for this")
			rec, err := w.do(call{handler: Versions, method: http.MethodGet, pattern: "/_matrix/client/versions"})
			if err != nil || rec.Code != http.StatusOK || rec.Body.String() != want {
				t.Errorf("%s\nbecame %d %s %v\nwant %s", answer, rec.Code, rec.Body, err, want)
			}
		}
	}
	for _, answer := range []string{
		`{"versions":[],"unstable_features":{"a":1},"unstable_features":{"org.matrix.msc3575":true}}`,
		`{"versions":["` + strings.Repeat("v", 256<<10) + `"]}`,
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.up.versions = answer
		_, err := w.do(call{handler: Versions, method: http.MethodGet, pattern: "/_matrix/client/versions"})
		wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	}
	w := newWorld(t, e2ee.ModeProxied)
	w.up.versions = "broken"
	if rec, err := w.do(call{handler: Versions, method: http.MethodGet, pattern: "/_matrix/client/versions"}); err != nil || rec.Code != http.StatusBadGateway {
		t.Errorf("the homeserver's error became %d %v", rec.Code, err)
	}
}
