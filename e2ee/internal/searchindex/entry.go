package searchindex

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// Key is the member of an event's content that a word stands in.
type Key byte

// The keys of the specification (POST /search).
const (
	KeyBody  Key = 'b' // content.body
	KeyName  Key = 'n' // content.name
	KeyTopic Key = 't' // content.topic
)

// Of the same form are the hashes of an event's type, and of its having a URL.
const (
	keyType Key = 'y'
	keyURL  Key = 'u'
)

// Texts are the searchable texts of an event.
type Texts map[Key]string

// TextsOf returns the searchable texts of a content; nil when there is none.
func TextsOf(eventType string, content strictjson.Object) Texts {
	var texts Texts
	for _, m := range []struct {
		name string
		key  Key
		only string // the type of the events that have it
	}{{"body", KeyBody, ""}, {"name", KeyName, "m.room.name"}, {"topic", KeyTopic, "m.room.topic"}} {
		if text := content.TextOrEmpty(m.name); text != "" && (m.only == "" || m.only == eventType) {
			if texts == nil {
				texts = make(Texts, 1)
			}
			texts[m.key] = text
		}
	}
	return texts
}

// Entry is an event that can be found.
type Entry struct {
	Room   id.RoomID
	Event  id.EventID
	Sender id.UserID
	At     int64 // origin_server_ts

	// Source is the event that the text is from, and SourceAt its time, if it is an edit;
	// zero for the event's own text.
	Source   id.EventID
	SourceAt int64

	Type  string
	URL   bool // the content has a url
	Texts Texts
}

const (
	// maxWords bounds the different words of one event.
	maxWords = 1000
	// maxLength is the largest length that is told from longer ones.
	maxLength = 255
)

// hasher makes the hashes of one account's index. It remembers those of a batch.
type hasher struct {
	mac  hash.Hash
	made map[string]uint32
	buf  []byte
	sum  []byte

	runs  []run // of the text that is looked at
	words []uint32
}

func newHasher(key secret.Bytes) *hasher {
	return &hasher{mac: hmac.New(sha256.New, key.Reveal()), made: make(map[string]uint32)}
}

func (h *hasher) sum256(key Key, word string) []byte {
	h.mac.Reset()
	h.buf = append(append(h.buf[:0], byte(key)), word...)
	_, _ = h.mac.Write(h.buf) // a hash never returns an error
	h.sum = h.mac.Sum(h.sum[:0])
	return h.sum
}

// word returns the hash of a word. 32 bits are enough: what two words have in common by
// chance is told apart by the text, see [Term.In].
func (h *hasher) word(key Key, word string) uint32 {
	h.buf = append(append(h.buf[:0], byte(key)), word...)
	if sum, ok := h.made[string(h.buf)]; ok {
		return sum
	}
	name := string(h.buf)
	sum := binary.BigEndian.Uint32(h.sum256(key, word))
	h.made[name] = sum
	return sum
}

// event returns the hash under which an event is recognised.
func (h *hasher) event(event id.EventID) uint64 {
	if event == "" {
		return 0
	}
	return binary.BigEndian.Uint64(h.sum256('e', string(event)))
}

// doc is an entry without a text.
type doc struct {
	room   id.RoomID
	sender id.UserID
	event  id.EventID
	source id.EventID // empty: the event itself
	entry  column
	words  []uint32 // sorted
}

// column is what is held in memory of an entry. Room and sender are numbers in the tables of
// its segment.
type column struct {
	at, sourceAt  int64
	event, source uint64 // hashes; source 0: the event itself
	room, sender  uint32
	length        uint8 // in words; maxLength for all longer ones
}

// doc hashes an entry. known is the hash of its event.
func (h *hasher) doc(e *Entry, known uint64) doc {
	d := doc{room: e.Room, sender: e.Sender, event: e.Event, source: e.Source}
	d.entry = column{at: e.At, sourceAt: e.SourceAt, event: known, source: h.event(e.Source)}
	if e.Source != "" && e.SourceAt == 0 {
		d.entry.sourceAt = 1 // zero says that there is none
	}
	length := 0
	h.words = h.words[:0]
	for key, text := range e.Texts {
		h.runs = appendRuns(h.runs[:0], normal(text))
		for _, r := range h.runs {
			if r.dense {
				length += utf8.RuneCountInString(r.text)
			} else {
				length++
			}
			r.words(func(w string) {
				if len(h.words) < 2*maxWords {
					h.words = append(h.words, h.word(key, w))
				}
			})
		}
	}
	h.words = append(h.words, h.word(keyType, e.Type))
	if e.URL {
		h.words = append(h.words, h.word(keyURL, ""))
	}
	slices.Sort(h.words)
	d.words = slices.Clone(slices.Compact(h.words))
	d.entry.length = uint8(min(length, maxLength))
	return d
}
