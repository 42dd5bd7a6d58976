package keybackup

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// maxBackedKey bounds one key in a download, in bytes.
const maxBackedKey = 1 << 20

// ReadRoom reads {"sessions": {session: data}} and calls each for every session, until
// it returns an error. raw is valid until then.
func ReadRoom(body io.Reader, each func(session id.SessionID, raw json.RawMessage) error) error {
	meter := &strictjson.Meter{R: body, Limit: maxBackedKey}
	dec := jsontext.NewDecoder(meter)
	return eachMember(dec, func(name string) error {
		if name != "sessions" {
			return dec.SkipValue()
		}
		return eachMember(dec, func(session string) error {
			raw, err := dec.ReadValue()
			if err != nil {
				return fmt.Errorf("%w: key backup", strictjson.ErrMalformed)
			}
			meter.Used = 0
			return each(id.SessionID(session), json.RawMessage(raw))
		})
	})
}

// Read reads {"rooms": {room: {"sessions": {session: data}}}} and calls each for every
// session.
func Read(body io.Reader, each func(store.SessionRef, json.RawMessage) error) error {
	meter := &strictjson.Meter{R: body, Limit: maxBackedKey}
	dec := jsontext.NewDecoder(meter)
	return eachMember(dec, func(name string) error {
		if name != "rooms" {
			return dec.SkipValue()
		}
		return eachMember(dec, func(room string) error {
			return eachMember(dec, func(name string) error {
				if name != "sessions" {
					return dec.SkipValue()
				}
				return eachMember(dec, func(session string) error {
					raw, err := dec.ReadValue()
					if err != nil {
						return err
					}
					meter.Used = 0
					if len(room) > wire.MaxIDLength || len(session) > wire.MaxIDLength {
						return nil
					}
					ref := store.SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(session)}
					return each(ref, json.RawMessage(raw.Clone()))
				})
			})
		})
	})
}

// eachMember reads an object. It calls each with every name, to read the value.
func eachMember(dec *jsontext.Decoder, each func(name string) error) error {
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginObject {
		return fmt.Errorf("%w: key backup", strictjson.ErrMalformed)
	}
	for dec.PeekKind() != jsontext.KindEndObject {
		name, err := dec.ReadToken()
		if err != nil {
			return fmt.Errorf("%w: key backup", strictjson.ErrMalformed)
		}
		if err := each(name.String()); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}
