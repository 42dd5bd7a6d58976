package interceptors

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Attack: what a body says, it says under a name in other cases of its letters. Dendrite, and
// clients in Go, read it there (encoding/json folds names); the proxy would read nothing, and
// pass it on unfiltered.
func TestNamesInOtherCases(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Messages", "MESSAGES", "me\u017f\u017fages"} {
		for _, body := range []string{`{"` + name + `":{"@bob:hs":{"A":{}}}}`, `{"messages":{},"` + name + `":{"@bob:hs":{"A":{}}}}`} {
			w := nativeWorld(t, map[id.UserID][]id.DeviceID{"@bob:hs": {"A"}})
			_, err := w.do(toDeviceCall("m.room.encrypted", body))
			if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status != http.StatusBadRequest || len(w.up.requests()) > 0 {
				t.Errorf("%s: %v, upstream got %+v", body, err, w.up.requests())
			}
		}
	}
	for _, name := range []string{"One_time_keys", "one_time_\u212aeys"} {
		w := nativeWorld(t, map[id.UserID][]id.DeviceID{"@bob:hs": {"A"}})
		_, err := w.do(claimCall(`{"` + name + `":{"@bob:hs":{"A":"signed_curve25519"}}}`))
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status != http.StatusBadRequest || len(w.up.requests()) > 0 {
			t.Errorf("%s: %v, upstream got %+v", name, err, w.up.requests())
		}
	}
	for _, name := range []string{"Device_keys", "device_\u212aeys", "Master_keys", "SELF_SIGNING_KEYS", "User_Signing_Keys", "Failures"} {
		w := nativeWorld(t, nil)
		w.up.respond = func(seen) (int, string) { return 200, `{"device_keys":{},"` + name + `":{"@bob:hs":{"A":{}}}}` }
		rec, err := w.do(queryCall(`{}`))
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status != http.StatusBadGateway || rec.Body.Len() > 0 || len(w.devices.native.answers) > 0 {
			t.Errorf("%s: %v, %s", name, err, rec.Body)
		}
	}
	w := nativeWorld(t, nil)
	w.up.respond = func(seen) (int, string) { return 200, `{"device_keys":{"@bob:hs":{}}}` }
	if _, err := w.do(queryCall(`{"device_keys":{"@bob:hs":[]},"Device_keys":{"@bob:hs":["A"]}}`)); err != nil || w.devices.native.whole["@bob:hs"] {
		t.Errorf("all devices are thought to be asked for: %v", err)
	}
}

// Attack: a homeserver answers a question about devices with another code than 200. Clients
// take all below 300, or below 400, for an answer, matrix-nio every code, and browsers follow
// those that lead elsewhere: so nothing passes unfiltered.
func TestAnswersWithOtherCodes(t *testing.T) {
	t.Parallel()
	const answer = `{"device_keys":{"@bob:hs":{"A":{}}}}`
	for status, body := range map[int]string{
		201: answer, 202: answer, 203: answer, 206: answer, 299: answer, 300: answer, 301: answer, 307: `{}`, 308: ``, 400: answer, 404: ` ` + answer,
		500: `{"device_keys":{"@bob:hs":{"A":{}}},"x":NaN}`, 502: `{"a":1,"a":2}`, 503: `{"Device_keys":{}}`,
	} {
		w := nativeWorld(t, map[id.UserID][]id.DeviceID{"@bob:hs": {"A"}})
		w.up.respond = func(seen) (int, string) { return status, body }
		rec, err := w.do(queryCall(`{}`))
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status != http.StatusBadGateway || rec.Body.Len() > 0 || w.devices.native.ended != 1 {
			t.Errorf("%d: %v, %s", status, err, rec.Body)
		}
	}
}

// Attack: a key that is no room key goes to devices in clear: those of a call, with which the
// homeserver could listen, and secrets that nobody asked for.
func TestOtherKeysToDevicesInClear(t *testing.T) {
	t.Parallel()
	for _, eventType := range []string{"io.element.call.encryption_keys", "m.call.encryption_keys", "org.matrix.msc4143.rtc.encryption_key", "m.rtc.encryption_key", "io.element.msc4385.secret.push", "m.secret.push"} {
		w := nativeWorld(t, nil)
		_, err := w.do(toDeviceCall(eventType, `{"messages":{"@bob:hs":{"A":{"keys":{"index":0,"key":"`+canary+`"}}}}}`))
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status != http.StatusForbidden || e.ErrCode != apierr.CodeClearText {
			t.Errorf("%s: %v", eventType, err)
		}
		w.wantNothingUpstream()
	}
}

// Attack: a server lists as many devices of one user as an answer has room for. Taking them out
// takes time for each of them, not for each pair.
func TestManyHiddenDevicesOfOneUser(t *testing.T) {
	t.Parallel()
	hide := func(n int) (spent time.Duration) {
		hidden := make([]id.DeviceID, n)
		for i := range hidden {
			hidden[i] = id.DeviceID(fmt.Sprintf("D%d", i))
		}
		w := nativeWorld(t, map[id.UserID][]id.DeviceID{"@bob:hs": hidden})
		answer := `{"device_keys":{"@bob:hs":{` + manyDevices(n) + `}}}`
		w.up.respond = func(seen) (int, string) { return 200, answer }
		begun := time.Now()
		if rec, err := w.do(queryCall(`{}`)); err != nil || rec.Body.String() != `{"device_keys":{"@bob:hs":{}}}` {
			t.Errorf("%d devices: %v", n, err)
		}
		return time.Since(begun)
	}
	// Pairs would take a hundred times as long, always; what is around them takes ten times, unless
	// others have the processors.
	var few, many time.Duration
	for range 5 {
		few, many = min(hide(5000), hide(5000), hide(5000)), min(hide(50_000), hide(50_000))
		if many <= 40*few+50*time.Millisecond {
			return
		}
	}
	t.Errorf("5,000 devices take %v, 50,000 take %v", few, many)
}

// Attack: a client sends clear text into an encrypted room under the type m.room.encrypted,
// which is how clients with keys of their own send. It is refused for what it is, with a device
// and without one; where clear text may pass, so may this.
func TestClearTextThatCallsItselfEncrypted(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"msgtype":"m.text","body":"` + canary + `"}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","body":"` + canary + `"}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"","body":"` + canary + `"}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":{"body":"` + canary + `"}}`,
		`{"ciphertext":"` + canary + `"}`,
		`["` + canary + `"]`,
	} {
		for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone} {
			w := nativeWorld(t, nil)
			w.dev.mode = mode
			if _, err := w.do(sendCall(encryptedRoom, "m.room.encrypted", body)); err == nil {
				t.Errorf("%s of %v was sent", body, mode)
			}
			w.wantNothingUpstream()
		}
	}
}
