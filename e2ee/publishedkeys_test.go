package e2ee_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// What a device publishes: its two keys under its own name, both algorithms, signed by itself,
// and one-time keys that it signed too (requirements 2.1 to 2.5, 3.1). A restart changes none
// of it, and nothing of it is uploaded again under another key.
func TestPublishedKeys(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	user, device := id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID)
	st.told()
	st.again()
	st.upkeep()
	var devices []trustcache.Device
	oneTime := make(map[string]string)
	for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$"))) {
		var body struct {
			Device  json.RawMessage            `json:"device_keys"`
			OneTime map[string]json.RawMessage `json:"one_time_keys"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		if len(body.Device) > 0 {
			dev, err := trustcache.ParseDevice(body.Device, user, device) // checks the signature
			if err != nil {
				t.Fatalf("%s: %v", body.Device, err)
			}
			devices = append(devices, dev)
		}
		for name, raw := range body.OneTime {
			if before, ok := oneTime[name]; ok && before != string(raw) {
				t.Errorf("%s is another key now", name)
			}
			oneTime[name] = string(raw)
		}
	}
	if len(devices) == 0 || len(oneTime) < keysKept {
		t.Fatalf("%d uploads of device keys, %d one-time keys", len(devices), len(oneTime))
	}
	for i := range devices {
		dev := &devices[i]
		if dev.Fault != trustcache.FaultNone || dev.Curve25519 != st.target().curve25519 || dev.Ed25519 != devices[0].Ed25519 ||
			!slices.Contains(dev.Algorithms, id.AlgorithmOlmV1) || !slices.Contains(dev.Algorithms, id.AlgorithmMegolmV1) {
			t.Errorf("published as %+v", dev)
		}
	}
	for name, raw := range oneTime {
		if !strings.HasPrefix(name, "signed_curve25519:") {
			t.Errorf("a one-time key is %s", name)
		}
		if ok, err := signatures.VerifySignatureJSON(json.RawMessage(raw), user, device.String(), devices[0].Ed25519); err != nil || !ok {
			t.Errorf("%s is not signed by the device: %s, %v", name, raw, err)
		}
	}
}
