package controlroom

import (
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"
)

// Bounds of what is kept of a room.
const (
	maxLines   = 200
	maxSize    = 96 << 10 // of all contents together, in bytes
	maxContent = 16 << 10 // of one
	maxData    = 16 << 10 // of the room's account data
	maxDevices = 50       // that it is known of what they were shown
	maxShown   = 20       // messages of a room that a device has not been shown yet
)

// Room is a room as it is stored. What has been read of it never changes: changes are made to
// a copy.
type Room struct {
	Opened   int   `json:"opened"`    // how often it was opened; 0: there is none yet
	OpenedAt int64 `json:"opened_at"` // in milliseconds, like all times
	Left     bool  `json:"left,omitempty"`
	LeftAt   int64 `json:"left_at,omitempty"`

	Lines   []Line `json:"lines"`
	Last    int64  `json:"last"`              // the number of the last line
	Dropped int64  `json:"dropped,omitempty"` // the number of the last line that is not kept any more
	Read    int64  `json:"read,omitempty"`    // the number of the last line that the user has read
	ReadAt  int64  `json:"read_at,omitempty"`

	Told []string `json:"told,omitempty"` // the warnings that were said and still hold

	Data    map[string]json.RawMessage `json:"data,omitempty"` // account data of the room
	DataSeq int64                      `json:"data_seq,omitempty"`

	Seen map[id.DeviceID]Seen `json:"seen,omitempty"`
}

// Line is something that was said, or done, in the room.
type Line struct {
	Seq     int64           `json:"n"`
	ID      id.EventID      `json:"id"`
	At      int64           `json:"at"`
	Mine    bool            `json:"mine,omitempty"` // by the user, not by the proxy
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"`
	// Secret is what does not stay.
	Secret bool `json:"secret,omitempty"`
	// Txn and Device are with what the user's message was sent.
	Txn    string      `json:"txn,omitempty"`
	Device id.DeviceID `json:"device,omitempty"`
	// Replaces is the message that this one changes. Whoever reads back gets that one changed.
	Replaces id.EventID `json:"replaces,omitempty"`
	Redacts  id.EventID `json:"redacts,omitempty"`
	// Redacted is the redaction of this one.
	Redacted id.EventID `json:"redacted,omitempty"`
}

// Seen is what a device was shown of a room: certainly Have, and more by the latest answers.
type Seen struct {
	Have Mark   `json:"have"`
	Sent []Sent `json:"sent,omitempty"`
	When int64  `json:"when"`
}

// Sent is what was shown by an answer that ended with the token At.
type Sent struct {
	At string `json:"at"`
	To Mark   `json:"to"`
}

// maxSent is of how many answers that showed something it is known what they showed: a session may
// be used by two programs, and an answer may not arrive. Who asks from a token before those is
// taken for one who has all that the device is certain to have.
const maxSent = 24

// Mark is a state of a room, as far as a client is told of it.
type Mark struct {
	Opened int   `json:"opened,omitempty"`
	Last   int64 `json:"last,omitempty"`
	Read   int64 `json:"read,omitempty"`
	Data   int64 `json:"data,omitempty"`
	Left   bool  `json:"left,omitempty"`
}

func (r *Room) mark() Mark {
	return Mark{Opened: r.Opened, Last: r.Last, Read: r.Read, Data: r.DataSeq, Left: r.Left}
}

func (r *Room) clone() *Room {
	c := *r
	c.Lines, c.Told = slices.Clone(r.Lines), slices.Clone(r.Told)
	c.Data, c.Seen = maps.Clone(r.Data), maps.Clone(r.Seen)
	if c.Seen == nil {
		c.Seen = make(map[id.DeviceID]Seen)
	}
	return &c
}

// hasSecrets reports whether something that was told once before a time is there.
func (r *Room) hasSecrets(before int64) bool {
	return slices.ContainsFunc(r.Lines, func(l Line) bool { return l.Secret && l.At < before })
}

// without returns the room as it is shown without what was told once before a time.
func (r *Room) without(before int64) *Room {
	if !r.hasSecrets(before) {
		return r
	}
	c := r.clone()
	for i := range c.Lines {
		if l := &c.Lines[i]; l.Secret && l.At < before {
			l.Content = Text(textSecretGone)
		}
	}
	return c
}

// open opens the room, or opens it again.
func (r *Room) open(at int64) {
	r.Opened++
	r.OpenedAt, r.Left, r.LeftAt = at, false, 0
}

// add adds a line with the next number, and drops what is too old.
func (r *Room) add(l Line) Line {
	r.Last++
	l.Seq = r.Last
	if l.Replaces != "" { // of the changes of one message only the last counts
		r.Lines = slices.DeleteFunc(r.Lines, func(o Line) bool { return o.Replaces == l.Replaces })
		if i := r.find(l.Replaces); i >= 0 {
			r.Lines[i].Content = l.Content
		}
	}
	r.Lines = append(r.Lines, l)
	if l.Mine {
		r.Read, r.ReadAt = l.Seq, l.At
	}
	r.shrink()
	return l
}

func (r *Room) shrink() {
	size, keep := 0, len(r.Lines)
	for keep > 0 && len(r.Lines)-keep < maxLines {
		if size += len(r.Lines[keep-1].Content); size > maxSize {
			break
		}
		keep--
	}
	if keep > 0 {
		r.Dropped = r.Lines[keep-1].Seq
		r.Lines = slices.Delete(r.Lines, 0, keep)
	}
}

// find returns the index of a line; -1 when there is none.
func (r *Room) find(event id.EventID) int {
	return slices.IndexFunc(r.Lines, func(l Line) bool { return l.ID == event })
}

// shown records what a device has that gets an answer, and forgets devices of which nothing was
// heard for long. have is what it has got until now, if that is certain.
func (r *Room) shown(dev id.DeviceID, by Sent, certain bool, have Mark, at int64) {
	s := r.Seen[dev]
	if certain { // else another program may go on with the same session
		s.Have = have
	}
	s.Sent = slices.Clone(s.Sent)
	if i := slices.IndexFunc(s.Sent, func(o Sent) bool { return o.At == by.At }); i >= 0 {
		s.Sent[i] = by
	} else {
		s.Sent = append(s.Sent, by)
		s.Sent = s.Sent[max(0, len(s.Sent)-maxSent):]
	}
	s.When = at
	r.Seen[dev] = s
	for len(r.Seen) > maxDevices {
		oldest := dev
		for other, o := range r.Seen {
			if o.When < r.Seen[oldest].When {
				oldest = other
			}
		}
		delete(r.Seen, oldest)
	}
}
