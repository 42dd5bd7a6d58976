package control

import (
	"bytes"
	"context"
	"image/png"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/qrcode"
)

// Bad input of people changes nothing: the engine is not asked, and they are told what is wrong.
func TestVerificationBadInput(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ handler, body, code, says string }{
		{Verify, ``, apierr.CodeMissingParam, "user_id is missing"},
		{Verify, `{"user_id":"bob"}`, apierr.CodeInvalidParam, "user ID"},
		{Verify, `{"user_id":7}`, apierr.CodeBadJSON, "user_id"},
		{Verify, `{"user":"@bob:hs"}`, apierr.CodeBadJSON, "unknown"},
		{VerificationConfirm, `{}`, apierr.CodeMissingParam, "match is missing"},
		{VerificationConfirm, `{"match":"yes"}`, apierr.CodeBadJSON, "match"},
		{VerificationScanned, ``, apierr.CodeMissingParam, "yes is missing"},
		{VerificationScan, `{}`, apierr.CodeMissingParam, "qr is missing"},
		{VerificationScan, `{"qr":"` + canary + `"}`, apierr.CodeInvalidParam, "base64"},
		{VerificationAccept, `{"match":true}`, apierr.CodeBadJSON, "takes no members"},
		{VerificationCancel, `{"why":"x"}`, apierr.CodeBadJSON, "takes no members"},
		{VerifyUser, `{}`, apierr.CodeMissingParam, "master_key"},
		{VerifyUser, `{"master_key":"` + canary + `"}`, apierr.CodeInvalidParam, "master_key"},
	} {
		w, c := controlWorld(t, e2ee.ModeProxied)
		_, err := w.do(callOf(tt.handler, http.MethodPost, "x", tt.body))
		e := shown(t, err, http.StatusBadRequest, tt.code)
		if !strings.Contains(e.Public(), tt.says) || len(c.asked) > 0 {
			t.Errorf("%s %s says %q, asked %q", tt.handler, tt.body, e.Public(), c.asked)
		}
	}
	for _, query := range []string{"wait=soon", "wait=-1", "wait=1e3"} {
		w, c := controlWorld(t, e2ee.ModeProxied)
		call := callOf(Verification, http.MethodGet, "x", "")
		call.query = query
		_, err := w.do(call)
		if shown(t, err, http.StatusBadRequest, apierr.CodeInvalidParam); len(c.asked) > 0 {
			t.Errorf("%s: asked %q", query, c.asked)
		}
	}
}

// What the engine refuses is told in words for people.
func TestVerificationRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{e2ee.ErrNoVerification, http.StatusNotFound, apierr.CodeNotFound},
		{e2ee.ErrVerificationStep, http.StatusConflict, codeVerificationStep},
		{e2ee.ErrUnverifiable, http.StatusConflict, codeUnverifiable},
		{e2ee.ErrOtherCode, http.StatusConflict, codeOtherCode},
		{e2ee.ErrNotACode, http.StatusBadRequest, apierr.CodeInvalidParam},
		{e2ee.ErrTooManyVerifications, http.StatusTooManyRequests, apierr.CodeLimitExceeded},
		{e2ee.ErrDeviceNotSigned, http.StatusForbidden, "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED"},
	} {
		w, c := controlWorld(t, e2ee.ModeProxied)
		c.err = tt.err
		_, err := w.do(callOf(VerificationAccept, http.MethodPost, "x", ""))
		wantError(t, err, tt.status, tt.code)
	}
}

// A step that is made again, because the replica that did it was killed and the verification ended
// with it, is answered with the verification as it is.
func TestVerificationStepMadeAgain(t *testing.T) {
	t.Parallel()
	for handler, body := range map[string]string{
		VerificationAccept: "", VerificationEmoji: "", VerificationConfirm: `{"match":true}`,
		VerificationScanned: `{"yes":true}`, VerificationScan: `{"qr":"AAAA"}`,
	} {
		for _, again := range []bool{false, true} {
			w, c := controlWorld(t, e2ee.ModeProxied)
			w.again, c.stepErr = again, e2ee.ErrVerificationStep
			rec, err := w.do(callOf(handler, http.MethodPost, "x", body))
			if !again {
				wantError(t, err, http.StatusConflict, codeVerificationStep)
			} else if err != nil || rec.Code != http.StatusOK || len(c.asked) != 2 {
				t.Errorf("%s: %d, %v, asked %q", handler, rec.Code, err, c.asked)
			}
		}
	}
}

// A picture of a code is read; one without is told, and nothing is asked.
func TestScanAPicture(t *testing.T) {
	t.Parallel()
	picture, err := qrcode.PNG([]byte("MATRIX\x02\x00"))
	if err != nil {
		t.Fatal(err)
	}
	post := func(body []byte, kind string) (*fakeControl, error) {
		w, c := controlWorld(t, e2ee.ModeProxied)
		call := callOf(VerificationScan, http.MethodPost, "x", string(body))
		call.params["flowId"], call.contentType, call.maxBody = anyFlow, kind, 1<<20
		_, err := w.do(call)
		return c, err
	}
	if c, err := post(picture, "image/png"); err != nil || !slices.Equal(c.asked, []string{"verifications", `scan "" "MATRIX\x02\x00"`}) {
		t.Errorf("asked %q, %v", c.asked, err)
	}
	for _, kind := range []string{"image/png", "image/jpeg"} {
		c, err := post([]byte("no picture"), kind)
		if shown(t, err, http.StatusBadRequest, apierr.CodeInvalidParam); !slices.Equal(c.asked, []string{"verifications"}) {
			t.Errorf("asked %q", c.asked)
		}
	}
}

// Attack: somebody with a token sends picture after picture, each of which takes seconds of a core.
// Without a verification that goes on none is read, and with one a user may have so many.
func TestAttackManyPictures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, c := controlWorld(t, e2ee.ModeProxied)
		post := func(flow string) error {
			call := callOf(VerificationScan, http.MethodPost, "x", "no picture")
			call.params["flowId"], call.contentType, call.maxBody = flow, "image/png", 1<<20
			_, err := w.do(call)
			return err
		}
		c.empty = true
		for range 2 * pictureBurst { // these do not count
			wantError(t, post(anyFlow), http.StatusNotFound, apierr.CodeNotFound)
		}
		c.empty = false
		for range pictureBurst {
			wantError(t, post("v1"), http.StatusBadRequest, apierr.CodeInvalidParam)
		}
		wantError(t, post("v1"), http.StatusTooManyRequests, apierr.CodeLimitExceeded)
		time.Sleep(pictureInterval)
		wantError(t, post(anyFlow), http.StatusBadRequest, apierr.CodeInvalidParam)
		w.dev.control = &moving{fakeControl: c, state: e2ee.VerificationDone}
		wantError(t, post("v1"), http.StatusNotFound, apierr.CodeNotFound)
	})
}

// showing is a control whose verification has a code to show.
type showing struct {
	*fakeControl
	qr []byte
}

func (c *showing) Verification(context.Context, string) (e2ee.Verification, error) {
	return e2ee.Verification{ID: "v1", State: e2ee.VerificationReady, QR: c.qr}, nil
}

// The code to show is a picture, as SVG or PNG, that no page runs anything of; and none when there
// is none.
func TestShowTheCode(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		query, kind string
		qr          []byte
		status      int
	}{
		{"", "image/svg+xml", []byte("MATRIX\x02\xff"), 200},
		{"format=svg", "image/svg+xml", []byte("MATRIX\x02\xff"), 200},
		{"format=png", "image/png", []byte("MATRIX\x02\xff"), 200},
		{"format=gif", "", []byte("MATRIX\x02\xff"), 400},
		{"", "", nil, 404},
	} {
		w, c := controlWorld(t, e2ee.ModeProxied)
		w.dev.control = &showing{c, tt.qr}
		call := callOf(VerificationQR, http.MethodGet, "x", "")
		call.query = tt.query
		rec, err := w.do(call)
		if tt.status != 200 {
			if err == nil {
				t.Errorf("%q: %d", tt.query, rec.Code)
			}
			continue
		}
		h := rec.Header()
		if err != nil || h.Get("Content-Type") != tt.kind || h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%q: %v, %v", tt.query, h, err)
		}
		if tt.kind == "image/png" {
			if _, err := png.Decode(bytes.NewReader(rec.Body.Bytes())); err != nil {
				t.Error(err)
			}
			if got, err := qrcode.Read(rec.Body.Bytes()); err != nil || !bytes.Equal(got, tt.qr) {
				t.Errorf("it shows %x, %v", got, err)
			}
		}
	}
}

// moving is a control whose verification moves on.
type moving struct {
	*fakeControl
	mu      sync.Mutex
	state   e2ee.VerificationState
	changed chan struct{}
}

func (c *moving) Verification(context.Context, string) (e2ee.Verification, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return e2ee.Verification{ID: "v1", State: c.state}, nil
}

func (c *moving) WatchVerifications(context.Context) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *moving) to(s e2ee.VerificationState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// A long poll ends when something changes, when the state is no longer the one that is named, when
// nothing more can happen, or when its time is over: the earliest of them.
func TestWaitForAVerification(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		query string
		begin e2ee.VerificationState
		// After each second it moves on.
		moves []e2ee.VerificationState
		took  time.Duration
		ends  string
	}{
		{"", "requested", nil, 0, "requested"},
		{"wait=30000", "requested", []e2ee.VerificationState{"requested", "ready"}, time.Second, "requested"},
		{"wait=30000&state=requested", "requested", []e2ee.VerificationState{"requested", "ready"}, 2 * time.Second, "ready"},
		{"wait=30000&state=requested", "ready", nil, 0, "ready"},
		{"wait=30000&state=requested", "requested", nil, 30 * time.Second, "requested"},
		{"wait=900000", "requested", nil, time.Minute, "requested"},
		{"wait=30000", "done", nil, 0, "done"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, c := controlWorld(t, e2ee.ModeProxied)
			m := &moving{fakeControl: c, state: tt.begin, changed: make(chan struct{})}
			w.dev.control = m
			go func() {
				for _, s := range tt.moves {
					time.Sleep(time.Second)
					m.to(s)
				}
			}()
			began := time.Now()
			call := callOf(Verification, http.MethodGet, "x", "")
			call.query = tt.query
			rec, err := w.do(call)
			if took := time.Since(began); err != nil || took != tt.took || !strings.Contains(rec.Body.String(), `"state":"`+tt.ends+`"`) {
				t.Errorf("%q from %s: %s after %s, %v", tt.query, tt.begin, rec.Body, took, err)
			}
			time.Sleep(time.Minute) // the moves end
		})
	}
}
