package olm

import (
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// maxSessionsPerDevice is how many Olm sessions are kept for one device; the spec asks for
// at least 4 (requirement 6.6).
const maxSessionsPerDevice = 6

// storedSession is one Olm session in memory.
type storedSession struct {
	row  store.OlmSession
	sess *session.OlmSession
}

// Sessions are the Olm sessions with some devices, by Curve25519 key, the one that received
// last first (requirement 6.5), and which of them must be stored.
type Sessions struct {
	byKey map[id.Curve25519][]*storedSession
	dirty map[*storedSession]bool
	gone  []string
	Begun []id.Curve25519 // the devices that began a session with us
}

// Add adds a new session in front, and drops the ones used longest ago.
func (o *Sessions) Add(key id.Curve25519, s *session.OlmSession, now time.Time) {
	made := &storedSession{
		row:  store.OlmSession{SessionID: s.ID().String(), TheirKey: key.String(), CreatedAt: now, LastReceivedAt: now},
		sess: s,
	}
	list := append([]*storedSession{made}, o.byKey[key]...)
	for len(list) > maxSessionsPerDevice {
		last := list[len(list)-1]
		o.gone = append(o.gone, last.row.SessionID)
		delete(o.dirty, last)
		list = list[:len(list)-1]
	}
	o.byKey[key] = list
	o.dirty[made] = true
}

// used records that a session decrypted a message.
func (o *Sessions) used(key id.Curve25519, s *storedSession, now time.Time) {
	s.row.LastReceivedAt = now
	o.dirty[s] = true
	list := o.byKey[key]
	if i := slices.Index(list, s); i > 0 {
		o.byKey[key] = slices.Insert(slices.Delete(list, i, i+1), 0, s)
	}
}

// Collect adds the changed sessions to ch.
func (o *Sessions) Collect(ch *store.Changes) {
	ch.DeleteOlmSessions = append(ch.DeleteOlmSessions, o.gone...)
	for s := range o.dirty {
		s.row.Pickle = s.sess.PickleLibOlm()
		ch.OlmSessions = append(ch.OlmSessions, s.row)
	}
}

// LoadSessions decodes rows, by Curve25519 key.
func LoadSessions(rows map[string][]store.OlmSession) (*Sessions, error) {
	out := &Sessions{byKey: make(map[id.Curve25519][]*storedSession, len(rows)), dirty: make(map[*storedSession]bool)}
	for key, list := range rows {
		for _, row := range list {
			s := session.NewOlmSession()
			if err := s.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
				return nil, fmt.Errorf("unpickle Olm session: %w", err)
			}
			out.byKey[id.Curve25519(key)] = append(out.byKey[id.Curve25519(key)], &storedSession{row, s})
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
		if msgType == id.OlmMsgTypePreKey {
			if match, err := s.sess.MatchesInboundSessionFrom(ev.SenderKey.String(), msg.Body); err != nil || !match {
				continue
			}
		}
		plain, err := s.sess.Decrypt(msg.Body, msgType)
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
	o.Add(from, made, now)
	o.Begun = append(o.Begun, from)
}

// SealAll encrypts one content for many devices: with the session that received last, or a
// new one made with a claimed key. renewed are the devices with a new session, without
// those that have neither. own is only read.
func (o *Sessions) SealAll(own *Account, frame *Frame, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519, now time.Time) (sealed []Message, renewed []store.DeviceRef, without []*trustcache.Device) {
	todo := make([]*sealing, 0, len(devices))
	for _, dev := range devices {
		w := &sealing{dev: dev, oneTimeKey: claimed[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}]}
		if list := o.byKey[dev.Curve25519]; len(list) > 0 {
			w.old = list[0]
		} else if w.oneTimeKey == "" {
			without = append(without, dev)
			continue
		}
		todo = append(todo, w)
	}
	parallel.Each(len(todo), func(i int) { todo[i].run(own, frame) })
	for _, w := range todo {
		switch {
		case w.err != nil:
			without = append(without, w.dev)
			continue
		case w.made != nil:
			o.Add(w.dev.Curve25519, w.made, now)
			renewed = append(renewed, store.DeviceRef{UserID: w.dev.UserID, DeviceID: w.dev.DeviceID})
		default:
			o.dirty[w.old] = true
		}
		sealed = append(sealed, Message{w.dev, w.content})
	}
	return sealed, renewed, without
}
