package olm

import (
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	// maxSessionsPerDevice is how many Olm sessions are kept for one device; the spec asks for
	// at least 4 (requirement 6.6).
	maxSessionsPerDevice = 6
	// maxSessionsPerKey is how many are kept for one Curve25519 key, which many devices can claim, and
	// maxUnanswered how many of them may be such that the other side has never used.
	maxSessionsPerKey = 4 * maxSessionsPerDevice
	maxUnanswered     = 2 * maxSessionsPerDevice
)

// storedSession is one Olm session in memory. It is decoded when it is to decrypt; for what it
// encrypts its pickle will do.
type storedSession struct {
	row  store.OlmSession
	sess *session.OlmSession // nil: not decoded, the row's pickle holds
	// onlySent is set once it was used, as long as all that differs from what is stored is how
	// many messages it has encrypted.
	onlySent bool
	taken    bool // for a message that is being sealed
}

// decoded returns the session, to be changed.
func (s *storedSession) decoded() (*session.OlmSession, error) {
	if s.sess == nil {
		sess := session.NewOlmSession()
		if err := sess.UnpickleLibOlm(s.row.Pickle.Reveal()); err != nil {
			return nil, fmt.Errorf("unpickle Olm session: %w", err)
		}
		s.sess = sess
	}
	return s.sess, nil
}

// pickled returns the session as it is now. The bytes are never changed.
func (s *storedSession) pickled() secret.Bytes {
	if s.sess != nil {
		return s.sess.PickleLibOlm()
	}
	return s.row.Pickle
}

// keep makes a pickle what the session is.
func (s *storedSession) keep(pickle secret.Bytes) { s.row.Pickle, s.sess = pickle, nil }

// Sessions are the Olm sessions with some devices, by Curve25519 key, the one that received
// last first (requirement 6.5), and which of them must be stored.
type Sessions struct {
	byKey map[id.Curve25519][]*storedSession
	dirty map[*storedSession]bool
	gone  []string
	Begun []id.Curve25519 // the devices that began a session with us
}

// Add adds a session that was begun with a device.
func (o *Sessions) Add(dev *trustcache.Device, s *session.OlmSession, now time.Time) {
	o.add(dev.Curve25519, dev.Ed25519, s, now)
}

// add adds a new session in front, and drops the ones with the same device that were used longest ago.
func (o *Sessions) add(key id.Curve25519, with id.Ed25519, s *session.OlmSession, now time.Time) {
	made := &storedSession{
		row:  store.OlmSession{SessionID: s.ID().String(), TheirKey: key.String(), With: with.String(), CreatedAt: now, LastReceivedAt: now},
		sess: s,
	}
	o.dirty[made] = true
	o.keepFew(key, append([]*storedSession{made}, o.byKey[key]...))
}

// keepFew keeps as many sessions of a key as there may be, of which the first one is new. Those that
// somebody began who only claims the key do not push out those of its owner.
func (o *Sessions) keepFew(key id.Curve25519, list []*storedSession) {
	with := list[0].row.With
	list = o.drop(list, maxSessionsPerDevice, func(s *storedSession) bool { return s.row.With == with })
	list = o.drop(list, maxUnanswered, func(s *storedSession) bool { return !s.hasReceived() })
	o.byKey[key] = o.drop(list, maxSessionsPerKey, func(*storedSession) bool { return true })
}

// drop drops all sessions of a kind but the first ones.
func (o *Sessions) drop(list []*storedSession, most int, isOne func(*storedSession) bool) []*storedSession {
	return slices.DeleteFunc(list, func(s *storedSession) bool {
		if !isOne(s) {
			return false
		}
		if most--; most >= 0 {
			return false
		}
		o.gone = append(o.gone, s.row.SessionID)
		delete(o.dirty, s)
		return true
	})
}

// hasReceived reports whether the other side has shown that it has the session.
func (s *storedSession) hasReceived() bool {
	pickle := s.row.Pickle.Reveal()
	return s.sess != nil || len(pickle) <= pickleReceived || pickle[pickleReceived] != 0
}

// isWith reports whether a session is with a device, as far as that is known.
func isWith(row *store.OlmSession, dev *trustcache.Device) bool {
	return row.With == "" || row.With == dev.Ed25519.String()
}

// HasSession reports whether one of the sessions of a Curve25519 key is with a device.
func HasSession(rows []store.OlmSession, dev *trustcache.Device) bool {
	return slices.ContainsFunc(rows, func(row store.OlmSession) bool { return isWith(&row, dev) })
}

// of returns the session with a device that received last; nil if there is none.
func (o *Sessions) of(dev *trustcache.Device) *storedSession {
	for _, s := range o.byKey[dev.Curve25519] {
		if isWith(&s.row, dev) {
			return s
		}
	}
	return nil
}

// used records that a session decrypted a message.
func (o *Sessions) used(key id.Curve25519, s *storedSession, now time.Time) {
	s.row.LastReceivedAt, s.onlySent = now, false
	o.dirty[s] = true
	list := o.byKey[key]
	if i := slices.Index(list, s); i > 0 {
		o.byKey[key] = slices.Insert(slices.Delete(list, i, i+1), 0, s)
	}
}

// Collect adds the changed sessions to ch. If many were only used to send, that is added to
// steps.
func (o *Sessions) Collect(ch *store.Changes, steps *Steps) *Moves {
	ch.DeleteOlmSessions = append(ch.DeleteOlmSessions, o.gone...)
	sent := 0
	for s := range o.dirty {
		s.row.Pickle = s.pickled()
		if s.onlySent {
			sent++
		}
	}
	moved, rest := make(map[sessionName]position, sent), make(map[sessionName]bool)
	for s := range o.dirty {
		name, ok := nameOf(s.row.SessionID)
		if at, chain := positionOf(s.row.Pickle.Reveal()); ok && chain && s.onlySent && sent >= minSteps {
			moved[name] = at
			continue
		}
		if ok {
			rest[name] = true
		}
		ch.OlmSessions = append(ch.OlmSessions, s.row)
	}
	for _, id := range o.gone {
		if name, ok := nameOf(id); ok {
			rest[name] = true
		}
	}
	return steps.move(ch, moved, rest)
}

// Rows returns what is stored, once that is so, of the devices whose sessions changed: their
// rows, moved to where the sessions are.
func (o *Sessions) Rows() map[id.Curve25519][]store.OlmSession {
	out := make(map[id.Curve25519][]store.OlmSession, len(o.dirty))
	for s := range o.dirty {
		key := id.Curve25519(s.row.TheirKey)
		if out[key] != nil {
			continue
		}
		list := o.byKey[key]
		out[key] = make([]store.OlmSession, len(list))
		for i, one := range list {
			out[key][i] = one.row
		}
	}
	return out
}

// LoadSessions decodes rows, by Curve25519 key.
func LoadSessions[K ~string](rows map[K][]store.OlmSession) (*Sessions, error) {
	out := &Sessions{byKey: make(map[id.Curve25519][]*storedSession, len(rows)), dirty: make(map[*storedSession]bool, len(rows))}
	for key, list := range rows {
		for _, row := range list {
			s := &storedSession{row: row}
			if !isRegular(row.Pickle.Reveal()) {
				if _, err := s.decoded(); err != nil {
					return nil, err
				}
			}
			out.byKey[id.Curve25519(key)] = append(out.byKey[id.Curve25519(key)], s)
		}
	}
	return out, nil
}

// Decrypt decrypts a message addressed to us, with a session with its sender or a new one
// (requirements 6.2, 6.3). It returns a new one as made, so that the caller removes the
// used one-time key from the account. own is only read. If it fails, nothing changed
// (requirement 6.13).
func (o *Sessions) Decrypt(own *Account, ev *Event, now time.Time) (plain []byte, made *session.OlmSession, err error) {
	if ev.Algorithm != wire.AlgorithmOlm {
		return nil, nil, fmt.Errorf("%w: algorithm", errNotForUs)
	}
	msg, ok := ev.Ciphertext[own.Curve25519]
	if !ok || ev.SenderKey == "" {
		return nil, nil, errNotForUs
	}
	msgType := id.OlmMsgType(msg.Type)
	if msgType != id.OlmMsgTypePreKey && msgType != id.OlmMsgTypeMsg {
		return nil, nil, fmt.Errorf("%w: message type", strictjson.ErrMalformed)
	}
	for _, s := range o.byKey[ev.SenderKey] {
		sess, err := s.decoded()
		if err != nil {
			return nil, nil, err
		}
		if msgType == id.OlmMsgTypePreKey {
			if match, err := sess.MatchesInboundSessionFrom(ev.SenderKey.String(), msg.Body); err != nil || !match {
				continue
			}
		}
		plain, err := sess.Decrypt(msg.Body, msgType)
		if err == nil {
			o.used(ev.SenderKey, s, now)
			return plain, nil, nil
		}
		if msgType == id.OlmMsgTypePreKey {
			return nil, nil, fmt.Errorf("%w: %w", ErrNoSession, err)
		}
	}
	if msgType != id.OlmMsgTypePreKey {
		return nil, nil, ErrNoSession
	}
	made, err = own.newInbound(ev.SenderKey, msg.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoSession, err)
	}
	plain, err = made.Decrypt(msg.Body, msgType)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoSession, err)
	}
	return plain, made, nil
}

// BeganBy adds a session that another device began with us.
func (o *Sessions) BeganBy(from id.Curve25519, made *session.OlmSession, now time.Time) {
	o.add(from, "", made, now)
	o.Begun = append(o.Begun, from)
}

// IsWith records with whom the session is that received last under a key, as what it received says:
// only who has the key can have said so.
func (o *Sessions) IsWith(from id.Curve25519, device id.Ed25519) {
	if list := o.byKey[from]; len(list) > 0 && o.dirty[list[0]] {
		list[0].row.With = device.String()
		o.keepFew(from, list)
	}
}

// SealAll encrypts one content for many devices: with the session that received last, or a
// new one made with a claimed key. renewed are the devices with a new session, without
// those that have neither. own is only read.
func (o *Sessions) SealAll(own *Account, frame *Frame, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519, now time.Time) (sealed []Message, renewed []store.DeviceRef, without []*trustcache.Device) {
	todo := make([]*sealing, 0, len(devices))
	for _, dev := range devices {
		w := &sealing{dev: dev, oneTimeKey: claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}]}
		if w.old = o.of(dev); w.old != nil {
			w.late, w.old.taken = w.old.taken, true
		} else if w.oneTimeKey == "" {
			without = append(without, dev)
			continue
		}
		todo = append(todo, w)
	}
	parallel.Each(len(todo), func(i int) {
		if !todo[i].late {
			todo[i].run(own)
		}
	})
	for _, w := range todo {
		if w.late { // another message has moved its session on
			w.run(own)
		}
		if w.old != nil {
			w.old.taken = false
		}
		switch {
		case w.err != nil:
			without = append(without, w.dev)
			continue
		case w.made != nil:
			o.Add(w.dev, w.made, now)
			o.byKey[w.dev.Curve25519][0].keep(w.pickle)
			renewed = append(renewed, store.DeviceRef{UserID: w.dev.UserID, DeviceID: w.dev.DeviceID})
		default:
			w.old.onlySent = !w.began && (w.old.onlySent || !o.dirty[w.old])
			w.old.keep(w.pickle)
			if slices.Contains(o.byKey[w.dev.Curve25519], w.old) { // not dropped for a new one
				o.dirty[w.old] = true
			}
		}
		sealed = append(sealed, Message{To: w.dev, letter: w.letter, frame: frame})
	}
	return sealed, renewed, without
}
