package keybackup

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// rewritten returns the vector's entry with another session_data.
func rewritten(t *testing.T, entry json.RawMessage, change func(data strictjson.Object) strictjson.Object) json.RawMessage {
	t.Helper()
	obj, err := strictjson.Parse(entry)
	if err != nil {
		t.Fatal(err)
	}
	data, err := strictjson.Parse(obj.Get("session_data"))
	if err != nil {
		t.Fatal(err)
	}
	return obj.Set("session_data", change(data).Encode()).Encode()
}

// Attack: a homeserver, or who can write to the backup, changes an entry: its ciphertext, the
// key it was encrypted with, its MACs, its members. The MAC of the specification covers
// nothing, so what is changed may still open.
//
// Expected: what does not open is an error, and not a crash; what opens with a wrong MAC is a
// key that proves nobody's ownership.
func TestChangedEntries(t *testing.T) {
	t.Parallel()
	v, ref, private, macKey := loadBackupVector(t)
	set := func(name, value string) func(strictjson.Object) strictjson.Object {
		return func(d strictjson.Object) strictjson.Object { return d.Set(name, json.RawMessage(value)) }
	}
	text := func(d strictjson.Object, name string) string { s, _ := d.Text(name); return s }
	other, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		entry    json.RawMessage
		opens    bool
		attested bool
	}{
		{"as it is", v.Entry, true, true},
		{"with more in unsigned", rewritten(t, v.Entry, func(d strictjson.Object) strictjson.Object {
			unsigned, err := strictjson.Parse(d.Get("unsigned"))
			if err != nil {
				t.Fatal(err)
			}
			return d.Set("unsigned", unsigned.Set("age", json.RawMessage(`1`)).Encode())
		}), true, true},
		{"with another member", rewritten(t, v.Entry, set("com.example", `1`)), true, false},
		{"without the MAC", rewritten(t, v.Entry, func(d strictjson.Object) strictjson.Object { return d.Without("unsigned") }), true, false},
		{"with an empty MAC", rewritten(t, v.Entry, set("unsigned", `{"org.matrix.msc4048.backup_mac":""}`)), true, false},
		{"with a MAC that is none", rewritten(t, v.Entry, set("unsigned", `{"org.matrix.msc4048.backup_mac":"!!"}`)), true, false},
		{"with a MAC of another kind", rewritten(t, v.Entry, set("unsigned", `{"org.matrix.msc4048.backup_mac":7}`)), true, false},
		{"with the MAC twice", rewritten(t, v.Entry, set("unsigned", `{"org.matrix.msc4048.backup_mac":"a","org.matrix.msc4048.backup_mac":"b"}`)), false, false},
		{"with unsigned that is a text", rewritten(t, v.Entry, set("unsigned", `"MAC"`)), true, false},
		{"half of the ciphertext", rewritten(t, v.Entry, func(d strictjson.Object) strictjson.Object {
			raw, err := base64.RawStdEncoding.DecodeString(text(d, "ciphertext"))
			if err != nil {
				t.Fatal(err)
			}
			return d.Set("ciphertext", strictjson.Quote(wire.Base64(raw[:len(raw)/32*16])))
		}), false, false},
		{"a ciphertext of no whole block", rewritten(t, v.Entry, set("ciphertext", `"AAAA"`)), false, false},
		{"no ciphertext", rewritten(t, v.Entry, set("ciphertext", `""`)), false, false},
		{"a ciphertext that is no base64", rewritten(t, v.Entry, set("ciphertext", `"!!"`)), false, false},
		{"a ciphertext of another kind", rewritten(t, v.Entry, set("ciphertext", `7`)), false, false},
		{"another key to agree with", rewritten(t, v.Entry, set("ephemeral", `"`+wire.Base64(other.PublicKey().Bytes())+`"`)), false, false},
		{"a key that makes the secret all zero", rewritten(t, v.Entry, set("ephemeral", `"`+strings.Repeat("A", 43)+`"`)), false, false},
		{"half a key to agree with", rewritten(t, v.Entry, set("ephemeral", `"AAAA"`)), false, false},
		{"no key to agree with", rewritten(t, v.Entry, func(d strictjson.Object) strictjson.Object { return d.Without("ephemeral") }), false, false},
		{"a key to agree with that is null", rewritten(t, v.Entry, set("ephemeral", `null`)), false, false},
		{"another MAC of the specification", rewritten(t, v.Entry, set("mac", `"AAAAAAAAAAA"`)), false, false},
		{"a member twice", rewritten(t, v.Entry, func(d strictjson.Object) strictjson.Object { return append(d, d[0]) }), false, false},
		{"data that is a text", json.RawMessage(`{"session_data":"text"}`), false, false},
		{"no data", json.RawMessage(`{"first_message_index":0}`), false, false},
		{"data twice", json.RawMessage(`{"session_data":{},"session_data":{}}`), false, false},
		{"a list", json.RawMessage(`[]`), false, false},
		{"null", json.RawMessage(`null`), false, false},
		{"nothing", nil, false, false},
	} {
		row, err := Open(ref, tc.entry, private, macKey)
		if (err == nil) != tc.opens || (row.SessionID != "") != tc.opens || megolm.ReadOwner(row.Owner).Attested != tc.attested {
			t.Errorf("%s: opens %v, attested %v, %v", tc.name, err == nil, megolm.ReadOwner(row.Owner).Attested, err)
		}
		if err != nil && strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: the error quotes it: %v", tc.name, err)
		}
	}
	if _, err := Open(ref, v.Entry, other, macKey); err == nil {
		t.Error("it opens with another key")
	}
	for name, wrong := range map[string]store.SessionRef{"session": {RoomID: ref.RoomID, SessionID: "other"}, "nothing": {}} {
		if _, err := Open(wrong, v.Entry, private, macKey); err == nil {
			t.Errorf("it opens under another name: %s", name)
		}
	}
}

// A key that several claim is backed up, and attests none of them: the one attested could
// silence the others. So is a key whose owner is not known.
func TestContestedKeysAreNotAttested(t *testing.T) {
	t.Parallel()
	v, ref, private, macKey := loadBackupVector(t)
	row, err := Open(ref, v.Entry, private, macKey)
	if err != nil {
		t.Fatal(err)
	}
	bob := megolm.ReadOwner(row.Owner)
	nobody, contested, nameless := megolm.Owner{}, bob, bob
	contested.Contested = true
	nameless.UserID, nameless.DeviceID = "", ""
	target := &Target{Public: private.PublicKey(), Private: private, MACKey: macKey}
	for _, tc := range []struct {
		name     string
		owner    megolm.Owner
		source   store.Source
		attested bool
		user     id.UserID
	}{
		{"of its owner", bob, store.SourceDirect, true, "@bob:example.org"},
		{"contested", contested, store.SourceDirect, false, ""},
		{"attested and contested", contested, store.SourceBackup, false, ""},
		{"attested, without a name", nameless, store.SourceBackup, true, ""},
		{"of nobody", nobody, store.SourceBackup, false, ""},
		{"of nobody, over Olm", nobody, store.SourceDirect, false, ""},
	} {
		owner, err := tc.owner.Encode()
		if err != nil {
			t.Fatal(err)
		}
		row.Owner, row.Source = owner, tc.source
		entry, err := Seal(&row, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Open(ref, mustJSON(t, entry), private, macKey)
		if err != nil {
			t.Fatal(err)
		}
		got := megolm.ReadOwner(back.Owner)
		if got.Attested != tc.attested || got.UserID != tc.user || entry.IsVerified && !tc.attested {
			t.Errorf("%s: it comes back as %+v, verified %v", tc.name, got.Owner, entry.IsVerified)
		}
	}
	// What became known of the owner since then goes with the key.
	unknown := bob
	unknown.Signed, unknown.Accepted, unknown.Master, unknown.Attested = false, false, "", false
	if row.Owner, err = unknown.Encode(); err != nil {
		t.Fatal(err)
	}
	whole := wholeSession(t) // a part is never called verified
	row.Source, row.SessionID, row.Pickle, row.FirstIndex = store.SourceDirect, whole.ID(), whole.PickleLibOlm(), whole.FirstKnownIndex()
	users := map[id.UserID]*trustcache.User{bob.UserID: {
		UserID: bob.UserID, Knowledge: trustcache.KnowledgeFresh, Identity: trustcache.Identity{Master: "M"},
		Pin: trustcache.Pin{Current: "M", PinnedMaster: "M"},
		Devices: []trustcache.Device{{
			UserID: bob.UserID, DeviceID: bob.DeviceID, Curve25519: bob.Curve25519, Ed25519: bob.Ed25519, Signed: true, Raw: []byte(`{}`),
		}},
	}}
	for known, all := range map[bool]map[id.UserID]*trustcache.User{false: nil, true: users} {
		entry, err := Seal(&row, target, all)
		if err != nil || entry.IsVerified != known {
			t.Errorf("its owner is known to be confirmed: %v; verified %v, %v", known, entry.IsVerified, err)
		}
	}
}

func wholeSession(t *testing.T) *session.MegolmInboundSession {
	t.Helper()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	message, err := out.SessionSharingMessage()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.NewMegolmInboundSession(message)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// Without the private key a key is backed up as the specification says, and attests nothing;
// what is damaged is not backed up at all.
func TestSealWithoutThePrivateKey(t *testing.T) {
	t.Parallel()
	v, ref, private, macKey := loadBackupVector(t)
	row, err := Open(ref, v.Entry, private, macKey)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := Seal(&row, &Target{Public: private.PublicKey()}, nil)
	if err != nil || strings.Contains(string(entry.SessionData), "unsigned") {
		t.Errorf("%s, %v", entry.SessionData, err)
	}
	back, err := Open(ref, mustJSON(t, entry), private, macKey)
	if err != nil || megolm.ReadOwner(back.Owner).Attested {
		t.Errorf("it comes back as %+v, %v", megolm.ReadOwner(back.Owner), err)
	}
	for name, pickle := range map[string]secret.Bytes{"nothing": nil, "half": row.Pickle[:30]} {
		bad := row
		bad.Pickle = pickle
		if entry, err := Seal(&bad, &Target{Public: private.PublicKey()}, nil); err == nil || entry.SessionData != nil {
			t.Errorf("%s is backed up", name)
		}
	}
	for _, raw := range []string{``, `[]`, `{"a":1,"a":2}`} {
		if got, err := addMAC(json.RawMessage(raw), macKey); err == nil {
			t.Errorf("%s has a MAC: %s", raw, got)
		}
	}
}

// Which public key a backup has, and that a backup without one that is known is nobody's.
func TestPublicKeyOfABackup(t *testing.T) {
	t.Parallel()
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	public := wire.Base64(key.PublicKey().Bytes())
	for auth, want := range map[string]bool{
		`{"public_key":"` + public + `"}`:                               true,
		`{"public_key":"` + public + `="}`:                              true, // as some clients write it
		`{"public_key":"` + public + `","signatures":{}}`:               true,
		`{"public_key":"` + public[1:] + `"}`:                           false,
		`{"public_key":"!!"}`:                                           false,
		`{"public_key":7}`:                                              false,
		`{"public_key":"` + public + `","public_key":"` + public + `"}`: false,
		`{}`: false, `[]`: false, ``: false,
	} {
		v := &Version{Algorithm: AlgorithmBackup, Version: "1", AuthData: json.RawMessage(auth)}
		if got := v.PublicKey(); (got != nil) != want || want && !got.Equal(key.PublicKey()) || v.Trusts(key) != want {
			t.Errorf("%s: has a key %v, ours %v", auth, got != nil, v.Trusts(key))
		}
	}
	var none *Version
	if none.PublicKey() != nil || none.Trusts(key) || none.SignedBy(&trustcache.User{}) {
		t.Error("no backup is somebody's")
	}
}
