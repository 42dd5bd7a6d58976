package olm

import (
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// errEnvelope means that the plaintext of an Olm message does not belong to that message
// (requirement 6.7). Such a message is dropped.
var errEnvelope = errors.New("the Olm message is not what it claims to be")

// Envelope is the plaintext of an Olm message (requirement 6.4).
type Envelope struct {
	Type          string          `json:"type"`
	Content       json.RawMessage `json:"content"`
	Sender        id.UserID       `json:"sender"`
	Recipient     id.UserID       `json:"recipient"`
	RecipientKeys EdKey           `json:"recipient_keys"`
	Keys          EdKey           `json:"keys"`
	DeviceKeys    json.RawMessage `json:"sender_device_keys"`
	// DeviceKeysMSC4147 is the name before v1.15 (requirement 6.10).
	DeviceKeysMSC4147 json.RawMessage `json:"org.matrix.msc4147.device_keys"`
}

// EdKey identifies a device by its signing key.
type EdKey struct {
	Ed25519 id.Ed25519 `json:"ed25519"`
}

// Received is an Olm message that passed the checks of requirement 6.7 that need no device
// list.
type Received struct {
	Envelope
	SenderKey id.Curve25519
	// Device is from sender_device_keys; nil when the message carried none.
	Device *trustcache.Device
}

// Owner returns the sender, as the Olm channel proves.
func (r *Received) Owner() trustcache.Owner {
	o := trustcache.Owner{UserID: r.Sender, Curve25519: r.SenderKey, Ed25519: r.Keys.Ed25519}
	if r.Device != nil {
		o.DeviceID, o.DeviceKeys = r.Device.DeviceID, r.Device.Raw
	}
	return o
}

// OpenEnvelope checks and parses a decrypted Olm message.
func OpenEnvelope(plain []byte, sender id.UserID, senderKey id.Curve25519, own id.UserID, ownKey id.Ed25519) (*Received, error) {
	out := &Received{SenderKey: senderKey}
	if err := strictjson.Unmarshal(plain, &out.Envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", errEnvelope, err)
	}
	switch {
	case out.Sender != sender:
		return nil, fmt.Errorf("%w: sender", errEnvelope) // 6.7a
	case out.Recipient != own:
		return nil, fmt.Errorf("%w: recipient", errEnvelope) // 6.7c
	case out.RecipientKeys.Ed25519 != ownKey:
		return nil, fmt.Errorf("%w: recipient key", errEnvelope) // 6.7d
	case out.Keys.Ed25519 == "" || out.Type == "":
		return nil, fmt.Errorf("%w: no sender key or type", errEnvelope)
	}
	raw := out.DeviceKeys
	if raw == nil {
		raw = out.DeviceKeysMSC4147
	}
	if raw == nil || string(raw) == "null" {
		return out, nil
	}
	device, err := parseSenderDevice(raw, sender)
	if err != nil {
		return nil, fmt.Errorf("%w: sender_device_keys: %w", errEnvelope, err)
	}
	if device.Curve25519 != senderKey || device.Ed25519 != out.Keys.Ed25519 { // 6.7e
		return nil, fmt.Errorf("%w: sender_device_keys name other keys", errEnvelope)
	}
	out.Device = device
	return out, nil
}

// parseSenderDevice parses sender_device_keys and checks the self-signature.
func parseSenderDevice(raw json.RawMessage, sender id.UserID) (*trustcache.Device, error) {
	var named struct {
		DeviceID id.DeviceID `json:"device_id"`
	}
	if err := strictjson.Unmarshal(raw, &named); err != nil {
		return nil, strictjson.ErrMalformed
	}
	device, err := trustcache.ParseDevice(raw, sender, named.DeviceID)
	if err != nil {
		return nil, err
	}
	return &device, nil
}
