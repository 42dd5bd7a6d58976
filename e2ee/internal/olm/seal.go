package olm

import (
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// sealing is the encryption of one message for one device, with an old session or a new one
// from a claimed key.
type sealing struct {
	dev        *trustcache.Device
	oneTimeKey id.Curve25519
	old        *storedSession
	late       bool // after another with the same session
	made       *session.OlmSession
	pickle     []byte // what becomes of the session
	letter     *letter
	began      bool // a new chain, with a ratchet key that is not stored
	err        error
}

func (w *sealing) run(own *Account) {
	var before []byte
	if w.old != nil {
		before = w.old.pickled()
	} else {
		if w.made, w.err = own.NewOutbound(w.dev.Curve25519, w.oneTimeKey); w.err != nil {
			return
		}
		before = w.made.PickleLibOlm()
	}
	if w.letter, w.pickle, w.err = newLetter(before, w.dev); w.err == nil {
		w.began = w.letter.index == 0
	}
}

// Frame is the common part of the plaintexts of one content for many devices.
type Frame struct {
	head      []byte
	senderKey string
}

// NewFrame prepares the plaintext of requirement 6.4. shownKeys are our device keys as the
// homeserver shows them, nil if it shows none.
func NewFrame(own *Account, user id.UserID, shownKeys json.RawMessage, eventType string, content json.RawMessage) *Frame {
	head := strictjson.Object{
		{Name: "type", Value: strictjson.Quote(eventType)},
		{Name: "content", Value: content},
		{Name: "sender", Value: strictjson.Quote(user.String())},
		{Name: "keys", Value: strictjson.Object{{Name: "ed25519", Value: strictjson.Quote(own.Ed25519.String())}}.Encode()},
	}
	if shownKeys != nil {
		head = append(head, strictjson.Member{Name: "sender_device_keys", Value: shownKeys})
	}
	raw := head.Encode()
	return &Frame{head: raw[:len(raw)-1], senderKey: own.Curve25519.String()}
}

// plaintext appends the plaintext for one device.
func (f *Frame) plaintext(plain []byte, user id.UserID, key id.Ed25519) []byte {
	plain = append(plain, f.head...)
	plain = append(plain, `,"recipient":`...)
	plain = strictjson.AppendQuote(plain, user.String())
	plain = append(plain, `,"recipient_keys":{"ed25519":`...)
	plain = strictjson.AppendQuote(plain, key.String())
	return append(plain, `}}`...)
}

// Seal encrypts for one device with a session that is not stored yet.
func (f *Frame) Seal(s *session.OlmSession, to *trustcache.Device) (json.RawMessage, error) {
	kind, body, err := s.Encrypt(f.plaintext(nil, to.UserID, to.Ed25519))
	if err != nil {
		return nil, fmt.Errorf("encrypt for a device: %w", err)
	}
	out := make([]byte, 0, len(body)+256)
	out = append(out, `{"algorithm":"`+wire.AlgorithmOlm+`","ciphertext":{`...)
	out = strictjson.AppendQuote(out, to.Curve25519.String())
	out = fmt.Appendf(out, `:{"type":%d,"body":"`, kind)
	out = append(out, body...)
	out = append(out, `"}},"sender_key":`...)
	return append(strictjson.AppendQuote(out, f.senderKey), '}'), nil
}
