package olm

import (
	"encoding/base64"
	"encoding/binary"
	"errors"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// A session that was only used to send differs from its row in its position alone. Where many
// are used at once, their positions are stored as one text, and their rows stay as they are.
// What holds is the furthest position under the ratchet key of the row: a row that was written
// later has another ratchet key, or is at least as far.

const (
	// minSteps is how many sessions are stored together at least. Fewer are written as rows.
	minSteps    = 32
	stepsFormat = 1
	stepSize    = keySize + keySize + 4 + keySize // session, ratchet key, index, chain key
)

var errSteps = errors.New("these are no steps of Olm sessions as they are stored")

// sessionName is a session's ID as bytes.
type sessionName [keySize]byte

func nameOf(sessionID string) (name sessionName, ok bool) {
	raw, err := base64.RawStdEncoding.AppendDecode(name[:0], []byte(sessionID))
	return name, err == nil && len(raw) == keySize && base64.RawStdEncoding.EncodeToString(raw) == sessionID
}

// Steps are the stored positions of a device's sessions. They are changed only once a change is
// stored.
type Steps struct {
	lists []stepList // in order: what a later one says of a session holds
}

// stepList is what one row holds, without what was stored anew since.
type stepList struct {
	number int64
	at     map[sessionName]position
}

// ReadSteps decodes the rows of a device, which are in order.
func ReadSteps(rows []store.OlmSteps) (*Steps, error) {
	s := &Steps{}
	for _, row := range rows {
		raw := row.Steps.Reveal()
		if len(raw)%stepSize != 1 || raw[0] != stepsFormat {
			return nil, errSteps
		}
		list := stepList{row.Number, make(map[sessionName]position, len(raw)/stepSize)}
		for raw = raw[1:]; len(raw) > 0; raw = raw[stepSize:] {
			list.at[sessionName(raw)] = position{
				ratchet: [keySize]byte(raw[keySize:]),
				index:   binary.BigEndian.Uint32(raw[2*keySize:]),
				key:     [keySize]byte(raw[2*keySize+4:]),
			}
		}
		for name := range list.at {
			s.forget(name)
		}
		s.lists = append(s.lists, list)
	}
	return s, nil
}

// forget removes what is said of a session.
func (s *Steps) forget(name sessionName) {
	for _, list := range s.lists {
		delete(list.at, name)
	}
}

// Len returns how many positions are kept.
func (s *Steps) Len() (n int) {
	for _, list := range s.lists {
		n += len(list.at)
	}
	return n
}

// Advance moves rows that were read to where the sessions are.
func (s *Steps) Advance(rows []store.OlmSession) {
	for i := range rows {
		name, ok := nameOf(rows[i].SessionID)
		pickle := rows[i].Pickle.Reveal()
		if !ok || len(s.lists) == 0 || !isRegular(pickle) {
			continue
		}
		best, ok := positionOf(pickle)
		if !ok {
			continue
		}
		for _, list := range s.lists {
			if at, ok := list.at[name]; ok && at.ratchet == best.ratchet && at.index > best.index {
				rows[i].Pickle = at.moved(pickle)
			}
		}
	}
}

// Moves are steps that are about to be stored.
type Moves struct {
	made stepList
	gone map[int64]bool       // rows that are deleted
	rest map[sessionName]bool // sessions of which a row holds everything, or that are gone
}

// move adds to ch where sessions have moved, with what is left of earlier rows that are not
// much larger: so there are few rows, and each position is written again a few times at most.
func (s *Steps) move(ch *store.Changes, moved map[sessionName]position, rest map[sessionName]bool) *Moves {
	m := &Moves{made: stepList{at: moved}, gone: make(map[int64]bool), rest: rest}
	if len(moved) == 0 {
		return m
	}
	for _, list := range s.lists {
		m.made.number = max(m.made.number, list.number+1)
		var left []sessionName
		for name := range list.at {
			if _, again := m.made.at[name]; !again && !rest[name] {
				left = append(left, name)
			}
		}
		if len(left) > 2*len(m.made.at) {
			continue
		}
		for _, name := range left {
			m.made.at[name] = list.at[name]
		}
		m.gone[list.number] = true
		ch.DeleteOlmSteps = append(ch.DeleteOlmSteps, list.number)
	}
	ch.OlmSteps = append(ch.OlmSteps, store.OlmSteps{Number: m.made.number, Steps: m.made.encode()})
	return m
}

// Apply makes it what holds, once it is stored.
func (s *Steps) Apply(m *Moves) {
	kept := s.lists[:0]
	for _, list := range s.lists {
		if !m.gone[list.number] {
			kept = append(kept, list)
		}
	}
	s.lists = kept
	for name := range m.made.at {
		s.forget(name)
	}
	for name := range m.rest {
		s.forget(name)
	}
	if len(m.made.at) > 0 {
		s.lists = append(s.lists, m.made)
	}
}

func (l *stepList) encode() secret.Bytes {
	out := append(make(secret.Bytes, 0, 1+len(l.at)*stepSize), stepsFormat)
	for name, at := range l.at {
		out = append(append(out, name[:]...), at.ratchet[:]...)
		out = append(binary.BigEndian.AppendUint32(out, at.index), at.key[:]...)
	}
	return out
}
