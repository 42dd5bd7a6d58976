package olm

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// A request to many devices is stored as what its messages follow from, which is a tenth of
// them: one text, and for each device the key that this one message takes. The body that is
// made of it is the same, byte for byte, at every try and after every restart; so a format is
// never changed, but gets another number, and one that is not known is refused.

const (
	recipeFormat = 1
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
