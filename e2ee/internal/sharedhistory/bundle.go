package sharedhistory

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	// maxKeys and maxNotes bound the keys, and the notes of keys that are not shared, in a
	// bundle that is made: about 10 MB, which homeservers take.
	maxKeys  = 10_000
	maxNotes = 5_000
	// maxTakenKeys and maxTakenNotes bound those that are taken of a bundle.
	maxTakenKeys  = 50_000
	maxTakenNotes = 10_000
	// maxBundle bounds a bundle that is downloaded, in bytes.
	maxBundle = 32 << 20
)

// codeNotShared is the code of keys whose makers did not allow to pass them on.
const codeNotShared = "m.history_not_shared"

// entryOf returns a room key as it stands in a bundle: under room_keys if it may be passed on,
// else under withheld. It is nil if nobody is known to claim the key: others cannot read such
// an entry.
func entryOf(row *store.InboundSession) (entry []byte, shared bool, err error) {
	owner := megolm.WhoseOwner(row.Owner)
	if !usableClaim(owner) {
		return nil, false, nil
	}
	common := strictjson.Object{
		{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
		{Name: "room_id", Value: strictjson.Quote(row.RoomID.String())},
		{Name: "sender_key", Value: strictjson.Quote(owner.Curve25519.String())},
		{Name: "session_id", Value: strictjson.Quote(row.SessionID.String())},
	}
	if !row.SharedHistory {
		return append(common,
			strictjson.Member{Name: "code", Value: strictjson.Quote(codeNotShared)},
			strictjson.Member{Name: "reason", Value: strictjson.Quote("History not shared")},
		).Encode(), false, nil
	}
	data, _, err := megolm.Data(row)
	if err != nil {
		return nil, false, err
	}
	return append(common,
		strictjson.Member{Name: "sender_claimed_keys", Value: data.Get("sender_claimed_keys")},
		strictjson.Member{Name: "session_key", Value: data.Get("session_key")},
	).Encode(), true, nil
}

// usableClaim reports whether an owner's keys are ones that others can read.
func usableClaim(o trustcache.Owner) bool {
	raw, err := base64.RawStdEncoding.DecodeString(o.Ed25519.String())
	return err == nil && len(raw) == 32 && trustcache.OneSpelling(o.Curve25519)
}

// writeBundle returns a bundle with these entries.
func writeBundle(keys, notes [][]byte) []byte {
	size := 64
	for _, list := range [][][]byte{keys, notes} {
		for _, entry := range list {
			size += len(entry) + 1
		}
	}
	out := append(make([]byte, 0, size), `{"room_keys":[`...)
	out = append(appendAll(out, keys), `],"withheld":[`...)
	return append(appendAll(out, notes), `]}`...)
}

func appendAll(out []byte, entries [][]byte) []byte {
	for i, entry := range entries {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, entry...)
	}
	return out
}

// reader takes what is in a bundle about one room. Other rooms' entries are left out
// (requirement 17.7), and so are those that are malformed.
type reader struct {
	room id.RoomID
	by   id.UserID
	key  func(store.InboundSession) error

	keys  map[id.SessionID]bool
	notes []store.WithheldNote
}

// read reads a bundle. An error of key, or that the rest cannot be read, ends it.
func (r *reader) read(raw []byte) error {
	r.keys = make(map[id.SessionID]bool)
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginObject {
		return errUnusable
	}
	for dec.PeekKind() != jsontext.KindEndObject {
		name, err := dec.ReadToken()
		if err != nil {
			return errUnusable
		}
		switch name.String() {
		case "room_keys":
			err = eachOf(dec, maxTakenKeys, r.takeKey)
		case "withheld":
			err = eachOf(dec, maxTakenNotes, r.takeNote)
		default:
			if dec.SkipValue() != nil {
				err = errUnusable
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eachOf calls each for the values of a list, up to a number; the others are skipped, and so is
// what is no list.
func eachOf(dec *jsontext.Decoder, most int, each func(raw jsontext.Value) error) error {
	if dec.PeekKind() != jsontext.KindBeginArray {
		if dec.SkipValue() != nil {
			return errUnusable
		}
		return nil
	}
	if _, err := dec.ReadToken(); err != nil {
		return errUnusable
	}
	for n := 0; dec.PeekKind() != jsontext.KindEndArray; n++ {
		raw, err := dec.ReadValue()
		if err != nil {
			return errUnusable
		}
		if n >= most {
			continue
		}
		if err := each(raw); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return errUnusable
	}
	return nil
}

// takeKey takes one room key. It is shareable by being in a bundle, and its row says who shared
// it.
func (r *reader) takeKey(raw jsontext.Value) error {
	entry, err := strictjson.Parse(raw)
	if err != nil {
		return nil
	}
	session, _ := entry.Text("session_id")
	if entry.TextOrEmpty("room_id") != r.room.String() || session == "" || len(session) > wire.MaxIDLength {
		return nil
	}
	ref := store.SessionRef{RoomID: r.room, SessionID: id.SessionID(session)}
	row, err := megolm.FromData(ref, entry.Only("algorithm", "sender_claimed_keys", "sender_key", "session_key").Encode(), store.SourceBundle, false)
	if err != nil {
		return nil
	}
	claimed := megolm.WhoseOwner(row.Owner)
	if !usableClaim(claimed) {
		claimed = trustcache.Owner{}
	}
	if row.Owner, err = (megolm.Owner{Owner: claimed, SharedBy: r.by}).Encode(); err != nil {
		return fmt.Errorf("encode who shared a room key: %w", err)
	}
	row.SharedHistory = true
	r.keys[ref.SessionID] = true
	return r.key(row)
}

// takeNote takes the reason why a key is not in the bundle.
func (r *reader) takeNote(raw jsontext.Value) error {
	entry, err := strictjson.Parse(raw)
	if err != nil {
		return nil
	}
	session, code := entry.TextOrEmpty("session_id"), entry.TextOrEmpty("code")
	if entry.TextOrEmpty("room_id") != r.room.String() || session == "" || len(session) > wire.MaxIDLength ||
		code == "" || len(code) > wire.MaxIDLength || code == "m.no_olm" {
		return nil
	}
	if code == "io.element.msc4268.history_not_shared" { // its name before 1.19 (requirement 17.9)
		code = codeNotShared
	}
	r.notes = append(r.notes, store.WithheldNote{
		SessionRef: store.SessionRef{RoomID: r.room, SessionID: id.SessionID(session)},
		Code:       code, Reason: wire.Truncate(entry.TextOrEmpty("reason"), wire.MaxIDLength),
	})
	return nil
}
