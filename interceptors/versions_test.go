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
// it, and gets nothing, because the proxy encrypts for it.
//
// Expected: no form of it is named to a device that cannot use it; everything else is as the
// homeserver says it. No device is adopted because somebody asked what the homeserver can do.
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
		for name, ask := range map[string]struct {
			mode      e2ee.Mode
			undecided bool
			err       error
			anonymous bool
			named     bool
		}{
			"proxied":              {mode: e2ee.ModeProxied},
			"its keys are lost":    {mode: e2ee.ModeLost},
			"without a device":     {mode: e2ee.ModeNone},
			"it cannot be told":    {mode: e2ee.ModeForeign, err: errors.New("no database")},
			"with keys of its own": {mode: e2ee.ModeForeign, named: true},
			"not decided yet":      {mode: e2ee.ModeProxied, undecided: true, named: true},
			"without a token":      {mode: e2ee.ModeProxied, anonymous: true, named: true},
		} {
			w := newWorld(t, ask.mode)
			w.up.versions, w.dev.undecided, w.devices.err = answer, ask.undecided, ask.err
			if ask.anonymous {
				w.who = Identity{}
			}
			shown := want
			if ask.named {
				shown = answer
			}
			rec, err := w.do(call{handler: Versions, method: http.MethodGet, pattern: "/_matrix/client/versions"})
			if err != nil || rec.Code != http.StatusOK || rec.Body.String() != shown {
				t.Errorf("%s: %s\nbecame %d %s %v\nwant %s", name, answer, rec.Code, rec.Body, err, shown)
			}
			if w.dev.of != nil {
				t.Errorf("%s: the device was adopted", name)
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

// Report: Element X, which has nothing but sliding sync, cannot be used through the proxy: the
// proxy refuses it to everybody, also to devices with keys of their own, whose events it does
// not decrypt anyway.
//
// Expected: it passes for them, under both names, as it came; and for a client that begins to
// sync while it uploads its keys. For those that the proxy encrypts for it does not exist.
func TestSlidingSync(t *testing.T) {
	t.Parallel()
	for version, pattern := range map[string]string{"v4": "/sync", "unstable": "/org.matrix.simplified_msc3575/sync"} {
		ask := call{handler: SlidingSync, method: http.MethodPost, version: version, pattern: pattern, query: "pos=s1&timeout=30000", body: `{"lists": {}}`}
		for name, row := range map[string]struct {
			mode      e2ee.Mode
			undecided bool
			passes    bool
		}{
			"with keys of its own": {mode: e2ee.ModeForeign, passes: true},
			"not decided yet":      {mode: e2ee.ModeProxied, undecided: true, passes: true},
			"proxied":              {mode: e2ee.ModeProxied},
			"its keys are lost":    {mode: e2ee.ModeLost},
			"without a device":     {mode: e2ee.ModeNone},
			"unknown":              {},
		} {
			w := newWorld(t, row.mode)
			w.dev.undecided = row.undecided
			rec, err := w.do(ask)
			got := w.up.requests()
			if !row.passes {
				wantError(t, err, http.StatusNotFound, apierr.CodeUnrecognized)
				if len(got) != 0 {
					t.Errorf("%s: upstream saw %+v", name, got)
				}
				continue
			}
			if err != nil || rec.Code != http.StatusOK || len(got) != 1 || got[0].body != ask.body || got[0].query != ask.query {
				t.Errorf("%s: %d %v, upstream saw %+v", name, rec.Code, err, got)
			}
		}
		w := newWorld(t, e2ee.ModeForeign)
		w.devices.err = errors.New("no database")
		if _, err := w.do(ask); err == nil || len(w.up.requests()) != 0 {
			t.Errorf("a device that cannot be told: %v, %d requests", err, len(w.up.requests()))
		}
	}
}
