package olm

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// Requirement 6.7: what the plaintext of an Olm message must agree with. Attack A15:
// device keys of another user, with another key, or not signed.
func TestOpenEnvelope(t *testing.T) {
	t.Parallel()
	sender, err := NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	const alice, bob = id.UserID("@alice:x"), id.UserID("@bob:x")
	const ownKey = id.Ed25519("own")
	keys, err := sender.DeviceKeys(alice, "DEV")
	if err != nil {
		t.Fatal(err)
	}
	othersKeys, err := other.DeviceKeys(alice, "DEV")
	if err != nil {
		t.Fatal(err)
	}
	ofMallory, err := sender.DeviceKeys("@mallory:x", "DEV")
	if err != nil {
		t.Fatal(err)
	}
	obj, err := strictjson.Parse(keys)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := obj.Without("signatures").Encode()

	good := map[string]any{
		"type": "m.room_key", "content": map[string]any{}, "sender": alice, "recipient": bob,
		"recipient_keys": map[string]any{"ed25519": ownKey}, "keys": map[string]any{"ed25519": sender.Ed25519},
		"sender_device_keys": json.RawMessage(keys),
	}
	for _, tc := range []struct {
		name   string
		change map[string]any
		ok     bool
	}{
		{"as it should be", nil, true},
		{"without device keys", map[string]any{"sender_device_keys": nil}, true},
		{"device keys under the old name", map[string]any{"sender_device_keys": nil, "org.matrix.msc4147.device_keys": json.RawMessage(keys)}, true},
		{"6.7a another sender", map[string]any{"sender": "@mallory:x"}, false},
		{"6.7b no sender key", map[string]any{"keys": map[string]any{}}, false},
		{"6.7c another recipient", map[string]any{"recipient": "@mallory:x"}, false},
		{"6.7d another recipient's key", map[string]any{"recipient_keys": map[string]any{"ed25519": "x"}}, false},
		{"6.7e device keys of another device", map[string]any{"sender_device_keys": json.RawMessage(othersKeys)}, false},
		{"6.7e device keys of another user", map[string]any{"sender_device_keys": json.RawMessage(ofMallory)}, false},
		{"6.7e device keys that nobody signed", map[string]any{"sender_device_keys": json.RawMessage(unsigned)}, false},
		{"6.7e another Ed25519 key than the device keys'", map[string]any{"keys": map[string]any{"ed25519": other.Ed25519}}, false},
		{"no type", map[string]any{"type": ""}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			msg := make(map[string]any)
			maps.Copy(msg, good)
			for k, v := range tc.change {
				if msg[k] = v; v == nil {
					delete(msg, k)
				}
			}
			plain, err := json.Marshal(msg)
			if err != nil {
				t.Fatal(err)
			}
			got, err := OpenEnvelope(plain, alice, sender.Curve25519, bob, ownKey)
			if tc.ok {
				if err != nil {
					t.Fatal(err)
				}
				if o := got.Owner(); o.UserID != alice || o.Curve25519 != sender.Curve25519 || o.Ed25519 != sender.Ed25519 {
					t.Errorf("owner is %v", o)
				}
				return
			}
			if !errors.Is(err, errEnvelope) {
				t.Errorf("accepted: %v", err)
			}
		})
	}
	t.Run("duplicate sender", func(t *testing.T) {
		plain := []byte(`{"type":"m.dummy","content":{},"sender":"@alice:x","sender":"@alice:x","recipient":"@bob:x","recipient_keys":{"ed25519":"own"},"keys":{"ed25519":"k"}}`)
		if _, err := OpenEnvelope(plain, alice, sender.Curve25519, bob, ownKey); !errors.Is(err, errEnvelope) {
			t.Errorf("accepted: %v", err)
		}
	})
}

func FuzzOpenEnvelope(f *testing.F) {
	f.Add([]byte(`{"type":"m.dummy","content":{},"sender":"@alice:x","recipient":"@bob:x","recipient_keys":{"ed25519":"own"},"keys":{"ed25519":"k"}}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		got, err := OpenEnvelope(plain, "@alice:x", "curve", "@bob:x", "own")
		if err == nil && (got.Sender != "@alice:x" || got.Recipient != "@bob:x" || got.RecipientKeys.Ed25519 != "own" || got.Keys.Ed25519 == "") {
			t.Fatalf("accepted %q", plain)
		}
	})
}
