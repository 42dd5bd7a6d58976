package control

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
)

// A user is told which of their devices use the proxy, whatever device asks; nobody else is.
func TestDevices(t *testing.T) {
	t.Parallel()
	w, _ := controlWorld(t, e2ee.ModeNone)
	w.held = []e2ee.HeldDevice{
		{DeviceID: "PHONE", Mode: e2ee.ModeProxied, HasToken: true, LastUsed: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		{DeviceID: "OLD", Mode: e2ee.ModeLost},
	}
	call := callOf(Devices, http.MethodGet, "devices", "")
	rec, err := w.do(call)
	const want = `{"devices":[{"device_id":"PHONE","mode":"proxied","signed_in":true,"last_used":"2026-01-02T03:04:05Z"},{"device_id":"OLD","mode":"lost","signed_in":false}]}`
	if err != nil || rec.Body.String() != want {
		t.Errorf("got %s, error %v", rec.Body, err)
	}
	w.held = nil
	if rec, err := w.do(call); err != nil || rec.Body.String() != `{"devices":[]}` {
		t.Errorf("without devices: %s, error %v", rec.Body, err)
	}
	w.who.Asserted = true
	_, err = w.do(call)
	wantError(t, err, http.StatusForbidden, "M_FORBIDDEN")
}

// Whoever acts for a device is told that it is not here, or that its session has ended, and
// what to do.
func TestHeldErrors(t *testing.T) {
	t.Parallel()
	wantError(t, HeldError(e2ee.ErrUnknownDevice), http.StatusNotFound, "M_NOT_FOUND")
	wantError(t, HeldError(e2ee.ErrSessionEnded), http.StatusConflict, codeSessionEnded)
	if other := errors.New("another"); !errors.Is(HeldError(other), other) {
		t.Error("another error was changed")
	}
}

// A checkup answers whatever device asks; a message to itself is sent only when that is said,
// and not by a misspelt word.
func TestCheckupCall(t *testing.T) {
	t.Parallel()
	w, c := controlWorld(t, e2ee.ModeProxied)
	for body, want := range map[string]string{``: "checkup false", `{}`: "checkup false", `{"talk":false}`: "checkup false", `{"talk":true}`: "checkup true"} {
		c.asked = nil
		rec, err := w.do(callOf(Checkup, http.MethodPost, "checkup", body))
		if err != nil || len(c.asked) != 1 || c.asked[0] != want || rec.Body.String() != `{"links":[{"name":"token","state":"ok","message":"m"}]}` {
			t.Errorf("%s: asked %q, got %s, error %v", body, c.asked, rec.Body, err)
		}
	}
	_, err := w.do(callOf(Checkup, http.MethodPost, "checkup", `{"tallk":true}`))
	wantError(t, err, http.StatusBadRequest, "M_BAD_JSON")
	for range checkupBurst {
		_, err = w.do(callOf(Checkup, http.MethodPost, "checkup", `{}`))
	}
	wantError(t, err, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED")
}
