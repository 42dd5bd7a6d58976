package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"testing"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

const (
	olmAlgorithm    = "m.olm.v1.curve25519-aes-sha2"
	megolmAlgorithm = "m.megolm.v1.aes-sha2"
)

type obj = map[string]any

// identity is a user with cross-signing keys.
type identity struct {
	tb           testing.TB
	user         string
	master, self ed25519.PrivateKey
}

func newIdentity(tb testing.TB, user string) *identity {
	tb.Helper()
	i := &identity{tb: tb, user: user}
	for _, key := range []*ed25519.PrivateKey{&i.master, &i.self} {
		_, made, err := ed25519.GenerateKey(nil)
		if err != nil {
			tb.Fatal(err)
		}
		*key = made
	}
	return i
}

func public(key ed25519.PrivateKey) string {
	return base64.RawStdEncoding.EncodeToString(key[ed25519.SeedSize:])
}

func (i *identity) key(usage string, key ed25519.PrivateKey) obj {
	return obj{"user_id": i.user, "usage": []string{usage}, "keys": obj{"ed25519:" + public(key): public(key)}}
}

func (i *identity) masterKey() obj { return i.key("master", i.master) }

func (i *identity) selfSigningKey() obj {
	return i.signed(i.key("self_signing", i.self), "ed25519:"+public(i.master), signBy(i.master))
}

// signed adds a signature under a name. Marshalled maps are canonical JSON as long as
// nothing in them is escaped.
func (i *identity) signed(o obj, name string, sign func([]byte) string) obj {
	i.tb.Helper()
	bare := maps.Clone(o)
	delete(bare, "signatures")
	raw, err := json.Marshal(bare)
	if err != nil {
		i.tb.Fatal(err)
	}
	mine := obj{}
	if old, ok := o["signatures"].(obj); ok {
		mine, _ = old[i.user].(obj)
	}
	mine[name] = sign(raw)
	o["signatures"] = obj{i.user: mine}
	return o
}

func signBy(key ed25519.PrivateKey) func([]byte) string {
	return func(raw []byte) string { return base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, raw)) }
}

// peer is a signed device of an identity.
type peer struct {
	*identity
	device     string
	acc        *goolm.Account
	ed25519    id.Ed25519
	curve25519 id.Curve25519
}

func (i *identity) newPeer(device string) *peer {
	i.tb.Helper()
	acc, err := goolm.NewAccount()
	if err != nil {
		i.tb.Fatal(err)
	}
	p := &peer{identity: i, device: device, acc: acc}
	if p.ed25519, p.curve25519, err = acc.IdentityKeys(); err != nil {
		i.tb.Fatal(err)
	}
	return p
}

func (p *peer) sign(o obj) obj {
	return p.signed(o, "ed25519:"+p.device, func(raw []byte) string {
		sig, err := p.acc.Sign(raw)
		if err != nil {
			p.tb.Fatal(err)
		}
		return string(sig)
	})
}

func (p *peer) deviceKeys() obj {
	o := p.sign(obj{
		"user_id": p.user, "device_id": p.device, "algorithms": []string{olmAlgorithm, megolmAlgorithm},
		"keys": obj{"ed25519:" + p.device: p.ed25519.String(), "curve25519:" + p.device: p.curve25519.String()},
	})
	return p.signed(o, "ed25519:"+public(p.self), signBy(p.self))
}

// oneTimeKey makes a signed one-time key.
func (p *peer) oneTimeKey() obj {
	p.tb.Helper()
	if err := p.acc.GenOneTimeKeys(1); err != nil {
		p.tb.Fatal(err)
	}
	keys, err := p.acc.OneTimeKeys()
	if err != nil {
		p.tb.Fatal(err)
	}
	p.acc.MarkKeysAsPublished()
	out := obj{}
	for name, key := range keys {
		out["signed_curve25519:"+name] = p.sign(obj{"key": key.String()})
	}
	return out
}

func marshal(tb testing.TB, v any) []byte {
	tb.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// sender is a peer with a session at a homeserver.
type sender struct {
	*peer
	hs  *liar.Server
	cli *client
}

// newSender logs a signed device in and publishes its keys.
func newSender(tb testing.TB, hs *liar.Server, name string) *sender {
	tb.Helper()
	session := hs.Login(name, "SENDER")
	s := &sender{peer: newIdentity(tb, session.UserID).newPeer(session.DeviceID), hs: hs, cli: newClient(tb, hs.URL, session.Token)}
	s.cli.do(http.MethodPost, "keys/upload", marshal(tb, obj{"device_keys": s.sign(obj{
		"user_id": s.user, "device_id": s.device, "algorithms": []string{olmAlgorithm, megolmAlgorithm},
		"keys": obj{"ed25519:" + s.device: s.ed25519.String(), "curve25519:" + s.device: s.curve25519.String()},
	})}), nil)
	s.cli.do(http.MethodPost, "keys/device_signing/upload", marshal(tb, obj{
		"master_key": s.masterKey(), "self_signing_key": s.selfSigningKey(),
		"auth": obj{"type": "m.login.password", "session": "any", "password": "password of " + name},
	}), nil)
	s.cli.do(http.MethodPost, "keys/signatures/upload", marshal(tb, obj{s.user: obj{s.device: s.deviceKeys()}}), nil)
	return s
}

// sendRoomKey sends a room key to a device of the engine.
func (s *sender) sendRoomKey(to liar.Session, room, sessionID string, key []byte) {
	s.tb.Helper()
	device := s.deviceOf(to)
	var claimed struct {
		Keys map[string]map[string]map[string]struct {
			Key id.Curve25519 `json:"key"`
		} `json:"one_time_keys"`
	}
	s.ask("keys/claim", obj{"one_time_keys": obj{to.UserID: obj{to.DeviceID: "signed_curve25519"}}}, &claimed)
	var session olm.Session
	for _, otk := range claimed.Keys[to.UserID][to.DeviceID] {
		made, err := s.acc.NewOutboundSession(device.curve25519, otk.Key)
		if err != nil {
			s.tb.Fatal(err)
		}
		session = made
	}
	if session == nil {
		s.tb.Fatalf("%s has no one-time key", to.UserID)
	}
	kind, body, err := session.Encrypt(marshal(s.tb, obj{
		"type": "m.room_key", "sender": s.user, "recipient": to.UserID,
		"content":        obj{"algorithm": megolmAlgorithm, "room_id": room, "session_id": sessionID, "session_key": string(key)},
		"recipient_keys": obj{"ed25519": device.ed25519}, "keys": obj{"ed25519": s.ed25519},
		"sender_device_keys": s.deviceKeys(),
	}))
	if err != nil {
		s.tb.Fatal(err)
	}
	s.hs.SendToDevice(to.UserID, to.DeviceID, s.user, "m.room.encrypted", obj{
		"algorithm": olmAlgorithm, "sender_key": s.curve25519,
		"ciphertext": obj{device.curve25519.String(): obj{"type": int(kind), "body": string(body)}},
	})
}

func (s *sender) ask(path string, body, result any) {
	s.tb.Helper()
	var answer bytes.Buffer
	s.cli.do(http.MethodPost, path, marshal(s.tb, body), &answer)
	if err := json.Unmarshal(answer.Bytes(), result); err != nil {
		s.tb.Fatal(err)
	}
}

// deviceOf returns the public keys of a device of the engine.
func (s *sender) deviceOf(to liar.Session) *peer {
	s.tb.Helper()
	var resp struct {
		Devices map[string]map[string]struct {
			Keys map[string]string `json:"keys"`
		} `json:"device_keys"`
	}
	s.ask("keys/query", obj{"device_keys": obj{to.UserID: []string{}}}, &resp)
	keys := resp.Devices[to.UserID][to.DeviceID].Keys
	return &peer{ed25519: id.Ed25519(keys["ed25519:"+to.DeviceID]), curve25519: id.Curve25519(keys["curve25519:"+to.DeviceID])}
}

// knows waits until a device can read an event.
func knows(tb testing.TB, d *e2ee.Device, probe e2ee.Incoming) {
	tb.Helper()
	await(tb, "the room key does not arrive", func() bool {
		opened, err := d.Open(tb.Context(), []e2ee.Incoming{probe})
		return err == nil && opened[0].Decrypted
	})
}
