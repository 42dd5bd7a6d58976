package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// The bytes of a record are JSON with short names, because a record of a large room has a
// thousand devices. They begin with a random salt: the hashes of the tree are in clear, and
// would otherwise tell whether a record is the one that somebody guesses.

// saltSize is the size of the salt in bytes.
const saltSize = 16

// ErrMalformed means that bytes are not a record, or not a checkpoint.
var ErrMalformed = errors.New("malformed")

// Encode returns the bytes of a record, with a new salt.
func (r *Record) Encode() []byte {
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // crypto/rand never returns an error
	return r.encode(salt)
}

func (r *Record) encode(salt [saltSize]byte) []byte {
	b := make([]byte, 0, 512+176*len(r.Users)+176*r.Recipients())
	b = append(b, `{"salt":"`...)
	b = base64.RawStdEncoding.AppendEncode(b, salt[:])
	b = append(b, `","at":`...)
	b = strconv.AppendInt(b, r.At.UnixMicro(), 10)
	b = appendText(b, "kind", string(r.Kind))
	b = appendText(b, "account", r.Account)
	b = appendText(b, "device", r.Device)
	b = appendText(b, "key", r.Ed25519)
	b = appendText(b, "room", r.Room)
	b = appendText(b, "session", r.Session)
	if r.Index > 0 {
		b = append(b, `,"index":`...)
		b = strconv.AppendUint(b, uint64(r.Index), 10)
	}
	b = appendText(b, "secret", r.Secret)
	b = appendText(b, "note", r.Note)
	b = appendText(b, "policy", r.Policy)
	if len(r.Users) > 0 {
		b = append(b, `,"users":[`...)
		for i := range r.Users {
			if i > 0 {
				b = append(b, ',')
			}
			b = r.Users[i].append(b)
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func (u *User) append(b []byte) []byte {
	b = append(b, `{"u":`...)
	b = quote(b, u.ID)
	b = appendText(b, "p", u.Pin)
	b = appendText(b, "m", u.Master)
	b = appendText(b, "s", u.SelfSigning)
	b = append(b, `,"d":[`...)
	for i := range u.Devices {
		if i > 0 {
			b = append(b, ',')
		}
		d := &u.Devices[i]
		b = append(b, `{"i":`...)
		b = quote(b, d.Device)
		b = appendText(b, "e", d.Ed25519)
		b = appendText(b, "c", d.Curve25519)
		b = appendText(b, "o", string(d.Outcome))
		b = appendText(b, "w", d.Code)
		b = appendText(b, "r", d.Rule)
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

// appendText adds a member after others; an empty one is left out.
func appendText(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return quote(b, value)
}

// quote adds a JSON string. What is not UTF-8 is replaced: no identifier that a homeserver
// sends in JSON can be that.
func quote(b []byte, s string) []byte {
	if isPlain(s) {
		b = append(b, '"')
		b = append(b, s...)
		return append(b, '"')
	}
	b, _ = jsontext.AppendQuote(b, s) // the error says that something was replaced
	return b
}

// isPlain reports whether a text stands in JSON as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// written is a record as its bytes have it.
type written struct {
	Salt    string `json:"salt"`
	At      int64  `json:"at"`
	Kind    Kind   `json:"kind"`
	Account string `json:"account"`
	Device  string `json:"device"`
	Ed25519 string `json:"key"`
	Room    string `json:"room"`
	Session string `json:"session"`
	Index   uint32 `json:"index"`
	Secret  string `json:"secret"`
	Note    string `json:"note"`
	Policy  string `json:"policy"`
	Users   []struct {
		User        string `json:"u"`
		Pin         string `json:"p"`
		Master      string `json:"m"`
		SelfSigning string `json:"s"`
		Devices     []struct {
			Device     string  `json:"i"`
			Ed25519    string  `json:"e"`
			Curve25519 string  `json:"c"`
			Outcome    Outcome `json:"o"`
			Code       string  `json:"w"`
			Rule       string  `json:"r"`
		} `json:"d"`
	} `json:"users"`
}

// Decode reads the bytes of a record strictly: nothing that is not known, and every
// recipient with an outcome.
func Decode(b []byte) (*Record, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var w written
	if err := d.Decode(&w); err != nil {
		return nil, fmt.Errorf("%w: a record: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows a record", ErrMalformed)
	}
	salt, err := base64.RawStdEncoding.DecodeString(w.Salt)
	if err != nil || len(salt) != saltSize || w.Kind == "" {
		return nil, fmt.Errorf("%w: a record without salt or kind", ErrMalformed)
	}
	r := &Record{
		At: time.UnixMicro(w.At).UTC(), Kind: w.Kind, Account: w.Account, Device: w.Device, Ed25519: w.Ed25519, Room: w.Room, Session: w.Session,
		Index: w.Index, Secret: w.Secret, Note: w.Note, Policy: w.Policy,
	}
	for _, u := range w.Users {
		user := User{ID: u.User, Pin: u.Pin, Master: u.Master, SelfSigning: u.SelfSigning, Devices: make([]Recipient, len(u.Devices))}
		for i, d := range u.Devices {
			if !slices.Contains([]Outcome{Given, Withheld, Refused, Changed}, d.Outcome) {
				return nil, fmt.Errorf("%w: a recipient without an outcome", ErrMalformed)
			}
			user.Devices[i] = Recipient(d)
		}
		r.Users = append(r.Users, user)
	}
	return r, nil
}
