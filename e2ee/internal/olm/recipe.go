package olm

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A request to many devices is stored as what its messages follow from, which is a tenth of
// them: one text, and for each device the key that this one message takes. The body that is
// made of it is the same, byte for byte, at every try and after every restart; so a format is
// never changed, but gets another number, and one that is not known is refused.

const (
	recipeFormat = 1
	aboutFormat  = 2 // a body, and what it is about
	// minRecipe is how many messages are stored so at least; the body of fewer is stored.
	minRecipe = 16
)

var errRecipe = errors.New("the stored request to devices cannot be read")

// isRecipe reports whether a request can be stored so: all messages have one frame.
func isRecipe(messages []Message) bool {
	for i := range messages {
		if m := &messages[i]; m.letter == nil || m.frame != messages[0].frame {
			return false
		}
	}
	return len(messages) >= minRecipe
}

// encodeRecipe encodes messages that are in order.
func encodeRecipe(messages []Message) secret.Bytes {
	frame := messages[0].frame
	out := make(secret.Bytes, 0, len(frame.head)+len(messages)*320)
	out = append(out, recipeFormat)
	out = appendText(out, frame.head)
	out = appendText(out, frame.senderKey)
	out = binary.AppendUvarint(out, uint64(len(messages)))
	var user id.UserID
	for i := range messages {
		m := &messages[i]
		if i > 0 && m.To.UserID == user {
			out = append(out, 0)
		} else {
			user = m.To.UserID
			out = appendText(append(out, 1), user)
		}
		out = appendText(out, m.To.DeviceID)
		out = m.letter.append(out)
	}
	return out
}

func appendText[T ~string | ~[]byte](out []byte, text T) []byte {
	return append(binary.AppendUvarint(out, uint64(len(text))), text...)
}

func (l *letter) append(out []byte) []byte {
	out = appendKey(appendKey(out, l.ed25519.String()), l.curve25519.String())
	if l.begins {
		out = append(append(out, 1), l.names[:]...)
	} else {
		out = append(out, 0)
	}
	out = binary.AppendUvarint(append(out, l.ratchet[:]...), uint64(l.index))
	return append(out, l.key[:]...)
}

// appendKey writes a public key as bytes, or as it is if it is encoded otherwise than we would.
func appendKey(out []byte, key string) []byte {
	if raw, ok := nameOf(key); ok {
		return append(append(out, 0), raw[:]...)
	}
	return appendText(append(out, 1), key)
}

// recipeReader reads a recipe; what it returns after bad is of no meaning.
type recipeReader struct {
	raw []byte
	bad bool
}

func (r *recipeReader) bytes(n uint64) []byte {
	if n > uint64(len(r.raw)) {
		r.bad, r.raw = true, nil
		return nil
	}
	out := r.raw[:n]
	r.raw = r.raw[n:]
	return out
}

func (r *recipeReader) number() uint64 {
	n, size := binary.Uvarint(r.raw)
	if size <= 0 {
		r.bad, r.raw = true, nil
		return 0
	}
	r.raw = r.raw[size:]
	return n
}

func (r *recipeReader) text() []byte { return r.bytes(r.number()) }

// flag reads a byte that is 0 or 1.
func (r *recipeReader) flag() bool {
	b := r.bytes(1)
	r.bad = r.bad || len(b) == 0 || b[0] > 1
	return !r.bad && b[0] == 1
}

func (r *recipeReader) key() string {
	if r.flag() {
		return string(r.text())
	}
	return base64.RawStdEncoding.EncodeToString(r.bytes(keySize))
}

func (r *recipeReader) letter() *letter {
	l := &letter{ed25519: id.Ed25519(r.key()), curve25519: id.Curve25519(r.key()), begins: r.flag()}
	if l.begins {
		copy(l.names[:], r.bytes(namesSize))
	}
	copy(l.ratchet[:], r.bytes(keySize))
	index := r.number()
	r.bad = r.bad || index > 1<<32-1
	l.index = uint32(index)
	copy(l.key[:], r.bytes(keySize))
	return l
}

// RecipeBody makes the body of a request of its stored recipe.
func RecipeBody(recipe secret.Bytes) (json.RawMessage, error) {
	if hasAbout(recipe) {
		_, body, err := decodeAbout(recipe)
		return body, err
	}
	messages, err := decodeRecipe(recipe)
	if err != nil {
		return nil, err
	}
	return toDeviceBody(messages), nil
}

func decodeRecipe(recipe secret.Bytes) ([]Message, error) {
	r := &recipeReader{raw: recipe.Reveal()}
	if format := r.bytes(1); r.bad || format[0] != recipeFormat {
		return nil, errRecipe
	}
	frame := &Frame{head: r.text(), senderKey: string(r.text())}
	n := r.number()
	if r.bad || n > uint64(len(r.raw)) {
		return nil, errRecipe
	}
	messages := make([]Message, 0, n)
	var user id.UserID
	for range n {
		if r.flag() {
			user = id.UserID(r.text())
		}
		to := &trustcache.Device{UserID: user, DeviceID: id.DeviceID(r.text())}
		messages = append(messages, Message{To: to, letter: r.letter(), frame: frame})
		if r.bad {
			return nil, errRecipe
		}
	}
	if len(r.raw) > 0 {
		return nil, errRecipe
	}
	return messages, nil
}

// What some requests carry must not arrive if its recipient lost the right to it while they waited.
// They are stored with what whoever made them needs to decide again. Those of a program that stored
// nothing of that are told by their transaction IDs, which say nothing else.

const (
	typeEncrypted = "m.room.encrypted"
	txnMark       = "b"
)

// Kind is what a request gives away.
type Kind string

const (
	// KindUnknown is for a request of a program that did not store what it gives.
	KindUnknown Kind = ""
	// KindSecret is for a secret that a device of the user has asked for, KindForward for a room key.
	KindSecret  Kind = "secret"
	KindForward Kind = "forwarded key"
	// KindHistory is for a room's history, which goes to somebody who is invited.
	KindHistory Kind = "history"
)

// About is what a request gives away, and to whom.
type About struct {
	Kind Kind
	Room id.RoomID // of the room key, or of the history
	To   []Recipient
}

// Recipient is a device and the keys that it had when something was encrypted for it. Ed25519 is
// empty where only the request itself says who that is.
type Recipient struct {
	User       id.UserID
	Device     id.DeviceID
	Curve25519 id.Curve25519
	Ed25519    id.Ed25519
}

// Is reports whether a device still has the recipient's keys.
func (r *Recipient) Is(dev *trustcache.Device) bool {
	return dev != nil && dev.UserID == r.User && dev.DeviceID == r.Device && dev.Curve25519 == r.Curve25519 &&
		(r.Ed25519 == "" || dev.Ed25519 == r.Ed25519)
}

// User returns the one user who is given it; empty when there are several.
func (a *About) User() id.UserID {
	for _, to := range a.To {
		if to.User != a.To[0].User {
			return ""
		}
	}
	return a.To[0].User
}

// AboutItem returns what a stored request is about; nil if nothing need be decided about it again. An
// error means that it cannot be told.
func AboutItem(item *store.OutboxItem) (about *About, err error) {
	switch {
	case item.EventType != typeEncrypted:
		return nil, nil
	case hasAbout(item.Recipe):
		about, _, err = decodeAbout(item.Recipe)
	case strings.HasPrefix(item.TxnID, txnMark):
		return nil, nil
	case len(item.Recipe) > 0:
		about, err = recipeTo(item.Recipe)
	default:
		about, err = bodyTo(item.Body)
	}
	if err == nil && len(about.To) == 0 {
		err = errRecipe
	}
	return about, err
}

func hasAbout(recipe secret.Bytes) bool { return len(recipe) > 0 && recipe.Reveal()[0] == aboutFormat }

func encodeAbout(about *About, body json.RawMessage) secret.Bytes {
	out := append(make(secret.Bytes, 0, len(body)+256), aboutFormat)
	out = appendText(appendText(out, about.Kind), about.Room)
	out = binary.AppendUvarint(out, uint64(len(about.To)))
	for i := range about.To {
		to := &about.To[i]
		out = appendText(appendText(appendText(appendText(out, to.User), to.Device), to.Curve25519), to.Ed25519)
	}
	return appendText(out, body)
}

func decodeAbout(recipe secret.Bytes) (*About, json.RawMessage, error) {
	r := &recipeReader{raw: recipe.Reveal()[1:]}
	about := &About{Kind: Kind(r.text()), Room: id.RoomID(r.text())}
	for range min(r.number(), uint64(len(r.raw))) {
		about.To = append(about.To, Recipient{id.UserID(r.text()), id.DeviceID(r.text()), id.Curve25519(r.text()), id.Ed25519(r.text())})
	}
	body := r.text()
	if r.bad || len(r.raw) > 0 {
		return nil, nil, errRecipe
	}
	return about, body, nil
}

// recipeTo returns to whom the messages of a recipe go.
func recipeTo(recipe secret.Bytes) (*About, error) {
	messages, err := decodeRecipe(recipe)
	if err != nil {
		return nil, err
	}
	about := &About{}
	for _, m := range messages {
		about.To = append(about.To, Recipient{m.To.UserID, m.To.DeviceID, m.letter.curve25519, m.letter.ed25519})
	}
	return about, nil
}

// bodyTo returns to whom the messages of a body go: what is encrypted for a device names its key.
func bodyTo(body json.RawMessage) (*About, error) {
	var request struct {
		Messages map[id.UserID]map[id.DeviceID]struct {
			Ciphertext map[id.Curve25519]json.RawMessage `json:"ciphertext"`
		} `json:"messages"`
	}
	if json.Unmarshal(body, &request) != nil {
		return nil, errRecipe
	}
	about := &About{}
	for user, devices := range request.Messages {
		for device, content := range devices {
			if len(content.Ciphertext) != 1 {
				return nil, errRecipe
			}
			for key := range content.Ciphertext {
				about.To = append(about.To, Recipient{User: user, Device: device, Curve25519: key})
			}
		}
	}
	return about, nil
}
