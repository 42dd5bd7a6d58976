package e2ee_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"testing"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

const (
	olmAlgorithm    = "m.olm.v1.curve25519-aes-sha2"
	megolmAlgorithm = "m.megolm.v1.aes-sha2"
)

// puppet is a device that the test plays itself, with bare Olm and nothing of the
// engine, so that it can do anything wrong and see everything it is given.
type puppet struct {
	liar.Session
	t   *testing.T
	hs  *liar.Server
	acc *goolm.Account

	ed25519    id.Ed25519
	curve25519 id.Curve25519

	since    string
	sessions map[id.Curve25519][]olm.Session
	plain    []heard // what came to it in clear
	opened   []heard // what came to it over Olm
	// plaintexts are those of opened, whole.
	plaintexts [][]byte
}

// heard is a to-device message.
type heard struct {
	Type    string         `json:"type"`
	Sender  string         `json:"sender"`
	Content map[string]any `json:"content"`
	// Decrypted is what the proxy says to a client.
	Decrypted bool `json:"decrypted"`
	// DeviceKeys are those of the sender, in a message that came over Olm.
	DeviceKeys json.RawMessage `json:"sender_device_keys"`
}

// newPuppet logs a device in and publishes its keys.
func newPuppet(t *testing.T, hs *liar.Server, name, device string) *puppet {
	t.Helper()
	p := silentPuppet(t, hs, hs.Login(name, device))
	p.upload(map[string]any{"device_keys": p.deviceKeys(), "one_time_keys": p.oneTimeKeys(10)})
	return p
}

// silentPuppet has keys but has not published them.
func silentPuppet(t *testing.T, hs *liar.Server, s liar.Session) *puppet {
	t.Helper()
	acc, err := goolm.NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	p := &puppet{t: t, hs: hs, Session: s, acc: acc, sessions: make(map[id.Curve25519][]olm.Session)}
	if p.ed25519, p.curve25519, err = acc.IdentityKeys(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *puppet) upload(body map[string]any) {
	p.t.Helper()
	if code := call(p.t, p.hs, p.Session, http.MethodPost, "keys/upload", body, nil); code != http.StatusOK {
		p.t.Fatalf("keys/upload answers %d", code)
	}
}

// sign adds the device's signature. Marshalled maps are canonical JSON as long as
// nothing in them is escaped.
func (p *puppet) sign(obj map[string]any) map[string]any {
	p.t.Helper()
	sig, err := p.acc.Sign(canonical(p.t, obj))
	if err != nil {
		p.t.Fatal(err)
	}
	obj["signatures"] = map[string]any{p.UserID: map[string]any{"ed25519:" + p.DeviceID: string(sig)}}
	return obj
}

func canonical(t *testing.T, obj map[string]any) []byte {
	t.Helper()
	bare := maps.Clone(obj)
	delete(bare, "signatures")
	delete(bare, "unsigned")
	raw, err := json.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (p *puppet) deviceKeys() map[string]any {
	p.t.Helper()
	return p.sign(map[string]any{
		"user_id": p.UserID, "device_id": p.DeviceID, "algorithms": []string{olmAlgorithm, megolmAlgorithm},
		"keys": map[string]any{"ed25519:" + p.DeviceID: p.ed25519.String(), "curve25519:" + p.DeviceID: p.curve25519.String()},
	})
}

// oneTimeKeys makes signed one-time keys.
func (p *puppet) oneTimeKeys(n uint) map[string]any {
	p.t.Helper()
	if err := p.acc.GenOneTimeKeys(n); err != nil {
		p.t.Fatal(err)
	}
	keys, err := p.acc.OneTimeKeys()
	if err != nil {
		p.t.Fatal(err)
	}
	out := make(map[string]any)
	for name, key := range keys {
		out["signed_curve25519:"+name] = p.sign(map[string]any{"key": key.String()})
	}
	p.acc.MarkKeysAsPublished()
	return out
}

// identity is a user's cross-signing keys.
type identity struct {
	t            *testing.T
	hs           *liar.Server
	owner        liar.Session
	master, self ed25519.PrivateKey
}

// newIdentity makes and publishes cross-signing keys. The password is the liar's.
func newIdentity(t *testing.T, hs *liar.Server, owner liar.Session) *identity {
	t.Helper()
	i := &identity{t: t, hs: hs, owner: owner, master: newSigningKey(t), self: newSigningKey(t)}
	self := i.signed(i.key("self_signing", i.self), i.master)
	localpart, _, _ := cutUserID(owner.UserID)
	body := map[string]any{
		"master_key": i.key("master", i.master), "self_signing_key": self,
		"auth": map[string]any{"type": "m.login.password", "session": "any", "password": "password of " + localpart},
	}
	if code := call(t, hs, owner, http.MethodPost, "keys/device_signing/upload", body, nil); code != http.StatusOK {
		t.Fatalf("device_signing/upload answers %d", code)
	}
	return i
}

func cutUserID(userID string) (localpart, server string, ok bool) {
	parsed := id.UserID(userID)
	localpart, server, err := parsed.Parse()
	return localpart, server, err == nil
}

func newSigningKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicKey(key ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(key[ed25519.SeedSize:])
}

func (i *identity) key(usage string, key ed25519.PrivateKey) map[string]any {
	return map[string]any{
		"user_id": i.owner.UserID, "usage": []string{usage},
		"keys": map[string]any{"ed25519:" + publicKey(key): publicKey(key)},
	}
}

// signed adds a signature of one of the identity's keys.
func (i *identity) signed(obj map[string]any, with ed25519.PrivateKey) map[string]any {
	i.t.Helper()
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(with, canonical(i.t, obj)))
	all, ok := obj["signatures"].(map[string]any)
	if !ok {
		all = map[string]any{}
		obj["signatures"] = all
	}
	mine, ok := all[i.owner.UserID].(map[string]any)
	if !ok {
		mine = map[string]any{}
		all[i.owner.UserID] = mine
	}
	mine["ed25519:"+publicKey(with)] = sig
	return obj
}

// confirm signs a device and uploads the signature.
func (i *identity) confirm(p *puppet) {
	i.t.Helper()
	body := map[string]any{p.UserID: map[string]any{p.DeviceID: i.signed(p.deviceKeys(), i.self)}}
	if code := call(i.t, i.hs, i.owner, http.MethodPost, "keys/signatures/upload", body, nil); code != http.StatusOK {
		i.t.Fatalf("signatures/upload answers %d", code)
	}
}

// confirmedPuppet returns a puppet whose owner's identity has signed it.
func confirmedPuppet(t *testing.T, hs *liar.Server, name, device string) (*puppet, *identity) {
	t.Helper()
	p := newPuppet(t, hs, name, device)
	own := newIdentity(t, hs, p.Session)
	own.confirm(p)
	return p, own
}

// listen takes what came to the device and opens what is encrypted for it.
func (p *puppet) listen() {
	p.t.Helper()
	for {
		var resp struct {
			NextBatch string `json:"next_batch"`
			ToDevice  struct {
				Events []heard `json:"events"`
			} `json:"to_device"`
		}
		path := "sync?timeout=0"
		if p.since != "" {
			path += "&since=" + url.QueryEscape(p.since)
		}
		call(p.t, p.hs, p.Session, http.MethodGet, path, nil, &resp)
		p.since = resp.NextBatch
		for _, ev := range resp.ToDevice.Events {
			if ev.Type == "m.room.encrypted" {
				p.open(ev)
			} else {
				p.plain = append(p.plain, ev)
			}
		}
		if len(resp.ToDevice.Events) == 0 {
			return
		}
	}
}

// open decrypts an Olm message with any session that can.
func (p *puppet) open(ev heard) {
	p.t.Helper()
	raw, err := json.Marshal(ev.Content)
	if err != nil {
		p.t.Fatal(err)
	}
	var content struct {
		SenderKey  id.Curve25519 `json:"sender_key"`
		Ciphertext map[id.Curve25519]struct {
			Type id.OlmMsgType `json:"type"`
			Body string        `json:"body"`
		} `json:"ciphertext"`
	}
	if err := json.Unmarshal(raw, &content); err != nil {
		p.t.Fatal(err)
	}
	msg, ok := content.Ciphertext[p.curve25519]
	if !ok {
		return
	}
	for _, s := range p.sessions[content.SenderKey] {
		if plain, err := s.Decrypt(msg.Body, msg.Type); err == nil {
			p.note(plain)
			return
		}
	}
	if msg.Type != id.OlmMsgTypePreKey {
		p.t.Errorf("%s %s has no session for a message", p.UserID, p.DeviceID)
		return
	}
	s, err := p.acc.NewInboundSessionFrom(&content.SenderKey, msg.Body)
	if err != nil {
		p.t.Errorf("%s %s cannot read a pre-key message: %v", p.UserID, p.DeviceID, err)
		return
	}
	plain, err := s.Decrypt(msg.Body, msg.Type)
	if err != nil {
		p.t.Errorf("%s %s cannot read a pre-key message: %v", p.UserID, p.DeviceID, err)
		return
	}
	if err := p.acc.RemoveOneTimeKeys(s); err != nil {
		p.t.Error(err)
	}
	p.sessions[content.SenderKey] = append(p.sessions[content.SenderKey], s)
	p.note(plain)
}

func (p *puppet) note(plain []byte) {
	var ev heard
	if err := json.Unmarshal(plain, &ev); err != nil {
		p.t.Error(err)
	}
	p.opened, p.plaintexts = append(p.opened, ev), append(p.plaintexts, plain)
}

// roomKeys returns the room keys the device was given, by session.
func (p *puppet) roomKeys() map[string]*session.MegolmInboundSession {
	p.t.Helper()
	p.listen()
	out := make(map[string]*session.MegolmInboundSession)
	for _, ev := range p.opened {
		if ev.Type != "m.room_key" {
			continue
		}
		key, _ := ev.Content["session_key"].(string)
		s, err := session.NewMegolmInboundSession([]byte(key))
		if err != nil {
			p.t.Error(err)
			continue
		}
		if old := out[s.ID().String()]; old == nil || s.FirstKnownIndex() < old.FirstKnownIndex() {
			out[s.ID().String()] = s
		}
	}
	return out
}

// withheld counts the codes the device was told, by session ("" for m.no_olm).
func (p *puppet) withheld() map[string][]string {
	p.t.Helper()
	p.listen()
	out := make(map[string][]string)
	for _, ev := range p.plain {
		if ev.Type == "m.room_key.withheld" {
			sessionID, _ := ev.Content["session_id"].(string)
			code, _ := ev.Content["code"].(string)
			out[sessionID] = append(out[sessionID], code)
		}
	}
	return out
}

// target is a device of the engine that the puppet writes to.
type target struct {
	user, device string
	ed25519      id.Ed25519
	curve25519   id.Curve25519
}

// envelope returns the plaintext of an Olm message that is as it should be.
func (p *puppet) envelope(to target, eventType string, content map[string]any) map[string]any {
	return map[string]any{
		"type": eventType, "content": content, "sender": p.UserID, "recipient": to.user,
		"recipient_keys": map[string]any{"ed25519": to.ed25519}, "keys": map[string]any{"ed25519": p.ed25519},
		"sender_device_keys": p.deviceKeys(),
	}
}

// sealOlm encrypts a plaintext for a device, with a new session if there is none.
func (p *puppet) sealOlm(to target, plain map[string]any) map[string]any {
	p.t.Helper()
	if len(p.sessions[to.curve25519]) == 0 {
		s, err := p.acc.NewOutboundSession(to.curve25519, p.claim(to))
		if err != nil {
			p.t.Fatal(err)
		}
		p.sessions[to.curve25519] = []olm.Session{s}
	}
	raw, err := json.Marshal(plain)
	if err != nil {
		p.t.Fatal(err)
	}
	kind, body, err := p.sessions[to.curve25519][0].Encrypt(raw)
	if err != nil {
		p.t.Fatal(err)
	}
	return map[string]any{
		"algorithm": olmAlgorithm, "sender_key": p.curve25519,
		"ciphertext": map[string]any{to.curve25519.String(): map[string]any{"type": int(kind), "body": string(body)}},
	}
}

// claim claims a one-time key.
func (p *puppet) claim(to target) id.Curve25519 {
	p.t.Helper()
	var resp struct {
		Keys map[string]map[string]map[string]struct {
			Key id.Curve25519 `json:"key"`
		} `json:"one_time_keys"`
	}
	body := map[string]any{"one_time_keys": map[string]any{to.user: map[string]string{to.device: "signed_curve25519"}}}
	call(p.t, p.hs, p.Session, http.MethodPost, "keys/claim", body, &resp)
	for _, key := range resp.Keys[to.user][to.device] {
		return key.Key
	}
	p.t.Fatalf("%s has no one-time key", to.device)
	return ""
}

// sendOlm seals a plaintext and has the homeserver deliver it.
func (p *puppet) sendOlm(to target, plain map[string]any) {
	p.t.Helper()
	p.hs.SendToDevice(to.user, to.device, p.UserID, "m.room.encrypted", p.sealOlm(to, plain))
}

// roomKey returns the content of an m.room_key.
func roomKey(room, sessionID string, key []byte) map[string]any {
	return map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": sessionID, "session_key": string(key)}
}

// megolm is a session of the puppet's for sending.
type megolm struct {
	*session.MegolmOutboundSession
	p    *puppet
	room string
}

func (p *puppet) newMegolm(room string) *megolm {
	p.t.Helper()
	s, err := session.NewMegolmOutboundSession()
	if err != nil {
		p.t.Fatal(err)
	}
	return &megolm{s, p, room}
}

// export returns the key at the current index.
func (m *megolm) export() []byte {
	m.p.t.Helper()
	key, err := m.SessionSharingMessage()
	if err != nil {
		m.p.t.Fatal(err)
	}
	return key
}

// share gives the key to a device as a well-behaved sender does.
func (m *megolm) share(to target) {
	m.p.t.Helper()
	m.p.sendOlm(to, m.p.envelope(to, "m.room_key", roomKey(m.room, m.ID().String(), m.export())))
}

// seal encrypts a payload.
func (m *megolm) seal(payload map[string]any) json.RawMessage {
	m.p.t.Helper()
	raw, err := json.Marshal(payload)
	if err != nil {
		m.p.t.Fatal(err)
	}
	cipher, err := m.Encrypt(raw)
	if err != nil {
		m.p.t.Fatal(err)
	}
	content, err := json.Marshal(map[string]any{"algorithm": megolmAlgorithm, "session_id": m.ID(), "ciphertext": string(cipher)})
	if err != nil {
		m.p.t.Fatal(err)
	}
	return content
}

// text returns the payload of a text message.
func (m *megolm) text(body string) map[string]any {
	return map[string]any{"type": "m.room.message", "room_id": m.room, "content": map[string]any{"msgtype": "m.text", "body": body}}
}

// say puts an encrypted text into the room.
func (m *megolm) say(body string) (eventID string) {
	m.p.t.Helper()
	return m.p.hs.Inject(m.room, liar.Event{Type: "m.room.encrypted", Sender: m.p.UserID, Content: m.seal(m.text(body))})
}
