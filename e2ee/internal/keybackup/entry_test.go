package keybackup

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
	"e2ee-proxy/e2ee/internal/wire"
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
	var keys [2]*session.MegolmInboundSession // the whole one, and one that begins with message 3
	for i := range keys {
		message, err := out.SessionSharingMessage()
		if err != nil {
			t.Fatal(err)
		}
		if keys[i], err = session.NewMegolmInboundSession(message); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := out.Encrypt([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole, in := keys[0], keys[1]
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	macKey, err := MACKey(key)
	if err != nil {
		t.Fatal(err)
	}
	target := &Target{Version: "1", Public: key.PublicKey(), Private: key, MACKey: macKey}
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
		got, err := Seal(&row, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		// A part is never verified: it would replace the whole key of a client that never says so.
		if got.IsVerified || got.ForwardedCount != tc.forwards || got.FirstIndex != 3 {
			t.Errorf("%s, from message 3 on: verified %v, forwarded %d, first index %d", tc.name, got.IsVerified, got.ForwardedCount, got.FirstIndex)
		}
		all := row
		all.Pickle, all.FirstIndex = whole.PickleLibOlm(), whole.FirstKnownIndex()
		if entry, err := Seal(&all, target, nil); err != nil || entry.IsVerified != tc.verified || entry.ForwardedCount != tc.forwards || entry.FirstIndex != 0 {
			t.Errorf("%s: verified %v, forwarded %d, first index %d, %v", tc.name, entry.IsVerified, entry.ForwardedCount, entry.FirstIndex, err)
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
		back, err := Open(ref, mustJSON(t, got), key, macKey)
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
