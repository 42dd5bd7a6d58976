package olm

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	olmmessage "maunium.net/go/mautrix/crypto/goolm/message"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// Event is the content of an m.room.encrypted to-device event.
type Event struct {
	Algorithm  string        `json:"algorithm"`
	SenderKey  id.Curve25519 `json:"sender_key"`
	Ciphertext map[id.Curve25519]struct {
		Type int    `json:"type"`
		Body string `json:"body"`
	} `json:"ciphertext"`
}

// Reasons why a message is not decrypted.
var (
	ErrReplayed  = errors.New("the Olm message was received before")
	ErrNoSession = errors.New("no Olm session can read the message")
	errNotForUs  = errors.New("the Olm message is not for this device")
)

// ParseEvent parses an m.room.encrypted to-device content.
func ParseEvent(content json.RawMessage) (*Event, error) {
	var ev Event
	if err := strictjson.Unmarshal(content, &ev); err != nil || !trustcache.OneSpelling(ev.SenderKey) {
		return nil, fmt.Errorf("%w: encrypted to-device message", strictjson.ErrMalformed)
	}
	return &ev, nil
}

// Digest identifies a message for our key by the bytes under its MAC. The homeserver can
// change everything else, also the spelling of the base64, and with a fallback key the same
// message could be decrypted again.
func (m *Event) Digest(own id.Curve25519) [32]byte {
	msg := m.Ciphertext[own]
	body, err := base64.RawStdEncoding.DecodeString(msg.Body)
	if err != nil {
		body = []byte(msg.Body) // it cannot be decrypted
	}
	var outer olmmessage.PreKeyMessage
	if id.OlmMsgType(msg.Type) == id.OlmMsgTypePreKey && err == nil && outer.Decode(body) == nil {
		body = outer.Message
	}
	return sha256.Sum256(append([]byte(m.SenderKey.String()+"|"), body...))
}
