package interceptors

import (
	"net/http"
	"net/url"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Attack vector (32): a token of an application service asserts to be a user's device.
// The engine's own requests would be made as somebody else with it, so that the device's
// keys would end up there. The same holds for what a guest cannot do.
//
// Expected: the proxy holds no keys for such an identity. What it sends to encrypted
// rooms in clear is refused, and keys of its own pass.
func TestNoKeysForAssertedDevices(t *testing.T) {
	t.Parallel()
	full := Identity{UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("as")}
	asserted, guest := full, full
	asserted.Asserted, guest.Guest = true, true
	engine, err := e2ee.New(e2ee.Options{Store: new(store.DB), Homeserver: &url.URL{}, Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []Identity{asserted, guest, {UserID: alice, Token: full.Token}} {
		dev, err := NewDevices(engine).Device(t.Context(), who)
		if err != nil || dev.Mode() != e2ee.ModeNone {
			t.Errorf("%+v: %v, %v", who, dev.Mode(), err)
		}
		w := newWorld(t, e2ee.ModeNone)
		w.who = who
		_, err = w.do(sendCall(encryptedRoom, "m.room.message", message))
		wantError(t, err, http.StatusForbidden, apierr.CodeCannotEncrypt)
		w.wantNothingUpstream()
		keys := `{"device_keys":{"user_id":"@alice:hs.example"}}`
		if rec, err := w.do(call{handler: UploadKeys, method: "POST", pattern: "/keys/upload", body: keys}); err != nil || rec.Code != http.StatusOK {
			t.Errorf("%+v: keys of its own: %v", who, err)
		}
		if len(w.devices.notes) != 0 {
			t.Errorf("%+v: the engine is told %v", who, w.devices.notes)
		}
	}
}
