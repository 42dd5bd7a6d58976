package olm

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/signkey"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// Claimed is what the homeserver says is a one-time key of a device.
type Claimed struct {
	Name string
	Raw  json.RawMessage
	Of   *trustcache.Device
}

// CheckOneTimeKeys returns each key if its device has signed it, else an empty one.
func CheckOneTimeKeys(all []Claimed) []id.Curve25519 {
	keys, checks := make([]id.Curve25519, len(all)), make([]signkey.Check, len(all))
	for i := range all {
		keys[i], checks[i] = all[i].read()
	}
	for i, valid := range signkey.VerifyAll(checks) {
		if !valid {
			keys[i] = ""
		}
	}
	return keys
}

// read returns the key, and the check of its signature, which refuses one that cannot be read.
func (c *Claimed) read() (key id.Curve25519, check signkey.Check) {
	object, err := strictjson.Parse(c.Raw)
	if err != nil || !strings.HasPrefix(c.Name, wire.AlgorithmSigned+":") {
		return "", check
	}
	text, ok := object.Text("key")
	if !ok {
		return "", check
	}
	signature, err := signatureOf(object, c.Of)
	if err != nil {
		return "", check
	}
	raw, err := base64.RawStdEncoding.DecodeString(c.Of.Ed25519.String())
	if err != nil {
		return "", check
	}
	by, err := signkey.NewKey(raw)
	if err != nil {
		return "", check
	}
	message, err := wire.Signable(c.Raw)
	if err != nil {
		return "", check
	}
	return id.Curve25519(text), signkey.Check{By: by, Message: message, Signature: signature}
}

// signatureOf returns a device's signature of an object.
func signatureOf(object strictjson.Object, dev *trustcache.Device) ([]byte, error) {
	all, err := strictjson.Parse(object.Get("signatures"))
	if err != nil {
		return nil, err
	}
	own, err := strictjson.Parse(all.Get(dev.UserID.String()))
	if err != nil {
		return nil, err
	}
	text, ok := own.Text("ed25519:" + dev.DeviceID.String())
	if !ok {
		return nil, strictjson.ErrMalformed
	}
	return base64.RawStdEncoding.DecodeString(text)
}
