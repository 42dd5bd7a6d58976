package e2ee

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// What the homeserver merges by is true (requirement 16.5), and what is inside has all its
// fields, those of other clients and the sharing flag too (requirements 16.4, 16.9, 17.4).
func TestBackupFields(t *testing.T) {
	t.Parallel()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	advance(t, out, 3)
	in := megolmAt(t, out)
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	macKey, err := backupMACKey(key)
	if err != nil {
		t.Fatal(err)
	}
	target := &backupTarget{version: "1", public: key.PublicKey(), private: key, macKey: macKey}
	owner := trustcache.Owner{UserID: "@bob:x", DeviceID: "B", Curve25519: "curve", Ed25519: "ed"}
	signed, accepted := owner, owner
	signed.Signed, signed.Master = true, "M"
	accepted.Signed, accepted.Master, accepted.Accepted = true, "M", true
	attested := accepted
	attested.Attested = true
	claimed := trustcache.Owner{Curve25519: "curve", Ed25519: "ed"}
	for _, tc := range []struct {
		name     string
		owner    megolm.Owner
		source   store.Source
		shared   bool
		verified bool
		forwards int
	}{
		{"direct, of a confirmed device and an accepted identity", megolm.Owner{Owner: accepted}, store.SourceDirect, true, true, 0},
		{"direct, not shareable", megolm.Owner{Owner: accepted}, store.SourceDirect, false, true, 0},
		{"direct, of a device that is not confirmed", megolm.Owner{Owner: owner}, store.SourceDirect, true, false, 0},
		{"direct, of an identity that was not accepted", megolm.Owner{Owner: signed}, store.SourceDirect, true, false, 0},
		{"attested by an authenticated backup", megolm.Owner{Owner: attested}, store.SourceBackup, true, true, 0},
		{"from a backup that proves nothing", megolm.Owner{Owner: claimed}, store.SourceBackup, true, false, 0},
		{"claimed to be confirmed by who gave it", megolm.Owner{Owner: accepted}, store.SourceForwarded, true, false, 0},
		{"forwarded once", megolm.Owner{Owner: claimed, Extra: json.RawMessage(`{"forwarding_curve25519_key_chain":["a"]}`)}, store.SourceForwarded, true, false, 1},
		{"imported, forwarded twice before", megolm.Owner{Owner: claimed, Extra: json.RawMessage(`{"forwarding_curve25519_key_chain":["a","b"]}`)}, store.SourceImport, true, false, 2},
		{"a chain that is none", megolm.Owner{Owner: claimed, Extra: json.RawMessage(`{"forwarding_curve25519_key_chain":7}`)}, store.SourceImport, true, false, 0},
		{"members of other clients", megolm.Owner{Owner: claimed, Extra: json.RawMessage(`{"org.example.x":{"y":1}}`)}, store.SourceBackup, true, false, 0},
	} {
		raw, err := tc.owner.Encode()
		if err != nil {
			t.Fatal(err)
		}
		ref := store.SessionRef{RoomID: "!r:x", SessionID: in.ID()}
		row := store.InboundSession{
			SessionRef: ref, Pickle: in.PickleLibOlm(), Owner: raw, Source: tc.source, FirstIndex: in.FirstKnownIndex(), SharedHistory: tc.shared,
		}
		got, err := sealBackup(&row, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.IsVerified != tc.verified || got.ForwardedCount != tc.forwards || got.FirstIndex != 3 {
			t.Errorf("%s: verified %v, forwarded %d, first index %d", tc.name, got.IsVerified, got.ForwardedCount, got.FirstIndex)
		}
		plain := openBySpec(t, got.SessionData, key.Bytes())
		var data struct {
			Algorithm string               `json:"algorithm"`
			Chain     []string             `json:"forwarding_curve25519_key_chain"`
			Claimed   map[string]string    `json:"sender_claimed_keys"`
			SenderKey id.Curve25519        `json:"sender_key"`
			Key       string               `json:"session_key"`
			Shared    *bool                `json:"shared_history"`
			Other     *struct{ Y int }     `json:"org.example.x"`
			Unproven  *string              `json:"org.matrix.msc4048.unauthenticated"`
			Owner     *struct{ ID string } `json:"dev.e2ee-proxy.owner"`
		}
		if err := json.Unmarshal(plain, &data); err != nil {
			t.Fatal(err)
		}
		again, err := session.NewMegolmInboundSessionFromExport([]byte(data.Key))
		if err != nil || again.ID() != in.ID() || again.FirstKnownIndex() != 3 {
			t.Errorf("%s: the key is not the key: %v", tc.name, err)
		}
		if data.Algorithm != wire.AlgorithmMegolm || data.SenderKey != "curve" || data.Claimed["ed25519"] != "ed" || data.Chain == nil || len(data.Chain) != tc.forwards {
			t.Errorf("%s: %s", tc.name, plain)
		}
		if data.Shared == nil || *data.Shared != tc.shared {
			t.Errorf("%s: shared_history %v", tc.name, data.Shared)
		}
		if (data.Other != nil) != (tc.name == "members of other clients") {
			t.Errorf("%s: a member of another client: %s", tc.name, plain)
		}
		back, err := openBackup(ref, mustJSON(t, got), key, macKey)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		proven := tc.source == store.SourceDirect || tc.owner.Attested
		if back.Source != store.SourceBackup || back.SharedHistory != tc.shared || megolm.ReadOwner(back.Owner).Attested != proven || (data.Unproven == nil) != proven {
			t.Errorf("%s: comes back as %+v of %+v", tc.name, back, megolm.ReadOwner(back.Owner))
		}
	}
}

// openBySpec decrypts one key of a backup by the words of the spec (requirement 16.3), with
// nothing of the library that wrote it: the MAC is that of nothing, as everybody's is.
func openBySpec(t *testing.T, raw json.RawMessage, private []byte) []byte {
	t.Helper()
	var sealed struct{ Ciphertext, Ephemeral, MAC string }
	if err := json.Unmarshal(raw, &sealed); err != nil {
		t.Fatal(err)
	}
	decode := func(s string) []byte {
		b, err := base64.RawStdEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mine, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ecdh.X25519().NewPublicKey(decode(sealed.Ephemeral))
	if err != nil {
		t.Fatal(err)
	}
	shared, err := mine.ECDH(theirs)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := hkdf.Key(sha256.New, shared, make([]byte, 32), "", 80)
	if err != nil {
		t.Fatal(err)
	}
	if mac := hmac.New(sha256.New, keys[32:64]).Sum(nil)[:8]; !bytes.Equal(mac, decode(sealed.MAC)) {
		t.Errorf("the MAC is %s, want %s", sealed.MAC, wire.Base64(mac))
	}
	block, err := aes.NewCipher(keys[:32])
	if err != nil {
		t.Fatal(err)
	}
	plain := decode(sealed.Ciphertext)
	if len(plain) == 0 || len(plain)%aes.BlockSize != 0 {
		t.Fatalf("the ciphertext has %d bytes", len(plain))
	}
	cipher.NewCBCDecrypter(block, keys[64:]).CryptBlocks(plain, plain)
	return plain[:len(plain)-int(plain[len(plain)-1])]
}

func mustJSON(t *testing.T, v any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A forwarded key counts by whom it went: each device adds the one it had it from
// (requirement 16.5). Nothing else that its sender writes beside it is kept.
func TestForwardedKeyNamesWhoGaveIt(t *testing.T) {
	t.Parallel()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	in := megolmAt(t, out)
	exported, err := in.Export(0)
	if err != nil {
		t.Fatal(err)
	}
	ref := store.SessionRef{RoomID: "!r:x", SessionID: in.ID()}
	d := &Device{
		part: part{eng: &Engine{now: nowAt(1000)}},
		gossip: gossip{
			keyAsks: map[store.SessionRef]*keyAsk{ref: {id: "ask", to: map[id.DeviceID]bool{"OTHER": true}, until: nowAt(2000)()}},
		},
	}
	d.connect()
	dev := trustcache.Device{
		UserID: "@alice:x", DeviceID: "OTHER", Ed25519: "ed of the other", Curve25519: "curve of the other", Signed: true,
		Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
	}
	own := &trustcache.User{
		UserID: "@alice:x", Own: true, Knowledge: trustcache.KnowledgeFresh,
		Pin: trustcache.Pin{Current: "M", PinnedMaster: "M", Verified: true, WasVerified: true}, Devices: []trustcache.Device{dev},
	}
	for chain, want := range map[string]int{`[]`: 1, `["a","b"]`: 3, `null`: 1, `7`: 1} {
		msg := &olm.Received{SenderKey: dev.Curve25519, Envelope: olm.Envelope{
			Sender: own.UserID, Keys: olm.EdKey{Ed25519: dev.Ed25519}, Content: strictjson.Object{
				{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)}, {Name: "room_id", Value: strictjson.Quote("!r:x")}, {Name: "session_id", Value: strictjson.Quote(in.ID().String())},
				{Name: "session_key", Value: strictjson.Quote(string(exported))}, {Name: "sender_key", Value: strictjson.Quote("curve")}, {Name: "sender_claimed_ed25519_key", Value: strictjson.Quote("ed")},
				{Name: "forwarding_curve25519_key_chain", Value: json.RawMessage(chain)}, {Name: "x", Value: strictjson.Quote("y")},
			}.Encode(),
		}}
		row, by := d.forwardedKey(msg, own)
		if by != "OTHER" || row.Source != store.SourceForwarded {
			t.Fatalf("chain %s: by %q, source %q", chain, by, row.Source)
		}
		extra, err := strictjson.Parse(megolm.ReadOwner(row.Owner).Extra)
		if err != nil {
			t.Fatal(err)
		}
		got := megolm.ForwardedBy(extra)
		if len(got) != want || got[len(got)-1] != dev.Curve25519.String() || extra.Get("x") != nil {
			t.Errorf("chain %s: %v", chain, got)
		}
	}
	// A device that is not confirmed, dehydrated or of another's key gives nothing.
	for name, change := range map[string]func(*trustcache.Device){
		"not confirmed": func(d *trustcache.Device) { d.Signed = false },
		"dehydrated":    func(d *trustcache.Device) { d.Dehydrated = true },
		"distrusted":    func(d *trustcache.Device) { d.Override = trustcache.OverrideDistrusted },
		"another key":   func(d *trustcache.Device) { d.Ed25519 = "another" },
		"trusted only":  func(d *trustcache.Device) { d.Signed, d.Override = false, trustcache.OverrideTrusted },
	} {
		other := *own
		other.Devices = []trustcache.Device{dev}
		change(&other.Devices[0])
		msg := &olm.Received{SenderKey: dev.Curve25519, Envelope: olm.Envelope{Sender: own.UserID, Keys: olm.EdKey{Ed25519: dev.Ed25519}, Content: strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)}, {Name: "room_id", Value: strictjson.Quote("!r:x")}, {Name: "session_id", Value: strictjson.Quote(in.ID().String())}, {Name: "session_key", Value: strictjson.Quote(string(exported))},
		}.Encode()}}
		if _, by := d.forwardedKey(msg, &other); by != "" {
			t.Errorf("%s: the key of %q was taken", name, by)
		}
	}
}
