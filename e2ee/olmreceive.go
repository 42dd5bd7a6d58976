package e2ee

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	olmmessage "maunium.net/go/mautrix/crypto/goolm/message"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// maxSessionsPerDevice is how many Olm sessions with one device are kept; the spec
// asks for at least 4 (requirement 6.6).
const maxSessionsPerDevice = 6

// olmSession is one Olm session in memory.
type olmSession struct {
	row  store.OlmSession
	sess *session.OlmSession
}

// olmSessions are the sessions with some devices, by Curve25519 key, the one that
// received last first (requirement 6.5). It remembers which must be stored.
type olmSessions struct {
	byKey map[id.Curve25519][]*olmSession
	dirty map[*olmSession]bool
	gone  []string
	begun []id.Curve25519 // who began a session with us
}

// loadOlmSessions reads the sessions with these keys in one go.
func (o *olmState) loadOlmSessions(ctx context.Context, keys []id.Curve25519) (*olmSessions, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.String()
	}
	rows, err := o.eng.store.OlmSessions(ctx, o.acct.row, o.rowID, names)
	if err != nil {
		return nil, fmt.Errorf("load Olm sessions: %w", err)
	}
	out := &olmSessions{byKey: make(map[id.Curve25519][]*olmSession, len(rows)), dirty: make(map[*olmSession]bool)}
	for key, list := range rows {
		for _, row := range list {
			s := session.NewOlmSession()
			if err := s.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
				return nil, fmt.Errorf("unpickle Olm session: %w", err)
			}
			out.byKey[id.Curve25519(key)] = append(out.byKey[id.Curve25519(key)], &olmSession{row, s})
		}
	}
	return out, nil
}

// add puts a new session first and drops the ones used longest ago.
func (o *olmSessions) add(key id.Curve25519, s *session.OlmSession, now time.Time) {
	made := &olmSession{
		row:  store.OlmSession{SessionID: s.ID().String(), TheirKey: key.String(), CreatedAt: now, LastReceivedAt: now},
		sess: s,
	}
	list := append([]*olmSession{made}, o.byKey[key]...)
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
func (o *olmSessions) used(key id.Curve25519, s *olmSession, now time.Time) {
	s.row.LastReceivedAt = now
	o.dirty[s] = true
	list := o.byKey[key]
	if i := slices.Index(list, s); i > 0 {
		o.byKey[key] = slices.Insert(slices.Delete(list, i, i+1), 0, s)
	}
}

// collect adds what changed to ch.
func (o *olmSessions) collect(ch *store.Changes) {
	ch.DeleteOlmSessions = append(ch.DeleteOlmSessions, o.gone...)
	for s := range o.dirty {
		s.row.Pickle = s.sess.PickleLibOlm()
		ch.OlmSessions = append(ch.OlmSessions, s.row)
	}
}

// olmEvent is the content of an m.room.encrypted to-device event.
type olmEvent struct {
	Algorithm  string        `json:"algorithm"`
	SenderKey  id.Curve25519 `json:"sender_key"`
	Ciphertext map[id.Curve25519]struct {
		Type int    `json:"type"`
		Body string `json:"body"`
	} `json:"ciphertext"`
}

var (
	errReplayed  = errors.New("the Olm message was received before")
	errNotForUs  = errors.New("the Olm message is not for this device")
	errNoSession = errors.New("no Olm session can read the message")
)

// decryptOlm decrypts one message addressed to us and records what changed in
// sessions and the step, none of which is kept when it fails (requirement 6.13).
// The caller holds mu.
func (o *olmState) decryptOlm(ev *olmEvent, sessions *olmSessions, seen map[[32]byte]bool, s *step) ([]byte, error) {
	if ev.Algorithm != wire.AlgorithmOlm {
		return nil, fmt.Errorf("%w: algorithm", errNotForUs)
	}
	msg, ok := ev.Ciphertext[o.account.curve25519]
	if !ok || ev.SenderKey == "" {
		return nil, errNotForUs
	}
	digest := o.olmDigest(ev)
	if seen[digest] {
		return nil, errReplayed
	}
	plain, err := o.decryptWith(ev.SenderKey, msg.Type, msg.Body, sessions, s)
	if err != nil {
		return nil, err
	}
	seen[digest] = true
	s.ch.Seen = append(s.ch.Seen, store.SeenMessage{Digest: digest, At: o.eng.now()})
	return plain, nil
}

// olmDigest names a message addressed to us by the part of it that carries a MAC: what is
// around that, its spelling in base64 included, the homeserver can change at will, and a
// fallback key would open the message once more.
func (o *olmState) olmDigest(ev *olmEvent) [32]byte {
	msg := ev.Ciphertext[o.account.curve25519]
	body, err := base64.RawStdEncoding.DecodeString(msg.Body)
	if err != nil {
		body = []byte(msg.Body) // nothing will decrypt it
	}
	var outer olmmessage.PreKeyMessage
	if id.OlmMsgType(msg.Type) == id.OlmMsgTypePreKey && err == nil && outer.Decode(body) == nil {
		body = outer.Message
	}
	return sha256.Sum256(append([]byte(ev.SenderKey.String()+"|"), body...))
}

// decryptWith tries the sessions with the sender, then a new one (requirements 6.2, 6.3).
func (o *olmState) decryptWith(from id.Curve25519, kind int, body string, sessions *olmSessions, st *step) ([]byte, error) {
	msgType := id.OlmMsgType(kind)
	if msgType != id.OlmMsgTypePreKey && msgType != id.OlmMsgTypeMsg {
		return nil, fmt.Errorf("%w: message type", strictjson.ErrMalformed)
	}
	now := o.eng.now()
	for _, s := range sessions.byKey[from] {
		if msgType == id.OlmMsgTypePreKey {
			if match, err := s.sess.MatchesInboundSessionFrom(from.String(), body); err != nil || !match {
				continue
			}
		}
		plain, err := s.sess.Decrypt(body, msgType)
		if err == nil {
			sessions.used(from, s, now)
			return plain, nil
		}
		if msgType == id.OlmMsgTypePreKey {
			return nil, fmt.Errorf("%w: %w", errNoSession, err)
		}
	}
	if msgType != id.OlmMsgTypePreKey {
		return nil, errNoSession
	}
	made, err := st.reading().newInbound(from, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSession, err)
	}
	plain, err := made.Decrypt(body, msgType)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSession, err)
	}
	if st.reading().usedFallback(made.BobOneTimeKey) {
		if err := st.serves(); err != nil {
			return nil, err
		}
		st.after(o.host.fallbackWasUsed)
	}
	st.account().removeOneTimeKey(made.BobOneTimeKey)
	sessions.add(from, made, now)
	sessions.begun = append(sessions.begun, from)
	return plain, nil
}

// parseOlm reads an m.room.encrypted to-device content.
func parseOlm(content json.RawMessage) (*olmEvent, error) {
	var ev olmEvent
	if err := strictjson.Unmarshal(content, &ev); err != nil || !trustcache.OneSpelling(ev.SenderKey) {
		return nil, fmt.Errorf("%w: encrypted to-device message", strictjson.ErrMalformed)
	}
	return &ev, nil
}
