package keybackup

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// Requirement 16.1, attack A14, one condition after the other: which backup may be written
// to by its signatures.
func TestWhoseBackupIsTrusted(t *testing.T) {
	t.Parallel()
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	signer := func() *pk.Signing {
		s, err := pk.NewSigning()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	master, device, stranger := signer(), signer(), signer()
	auth := strictjson.Object{{Name: "public_key", Value: strictjson.Quote(wire.Base64(key.PublicKey().Bytes()))}}.Encode()
	signed := func(user id.UserID, name string, by *pk.Signing) json.RawMessage {
		msg, err := wire.Signable(auth)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := by.Sign(msg)
		if err != nil {
			t.Fatal(err)
		}
		out, err := wire.AddSignature(auth, user, "ed25519:"+name, string(sig))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	const alice = id.UserID("@alice:x")
	byMaster := signed(alice, master.PublicKey().String(), master)
	byDevice := signed(alice, "PHONE", device)
	for _, tc := range []struct {
		name   string
		auth   json.RawMessage
		change func(v *Version, own *trustcache.User)
		want   bool
	}{
		{"signed by the identity", byMaster, nil, true},
		{"signed by a confirmed device", byDevice, nil, true},
		{"not signed", auth, nil, false},
		{"the identity is not verified: a homeserver may have made it up", byMaster, func(_ *Version, own *trustcache.User) { own.Verified = false }, false},
		{"by a device of an identity that is not verified", byDevice, func(_ *Version, own *trustcache.User) { own.Verified = false }, false},
		{"nothing is known of the own user", byMaster, func(_ *Version, own *trustcache.User) { own.Knowledge = trustcache.KnowledgeUnknown }, false},
		{"by an identity that was replaced", byMaster, func(_ *Version, own *trustcache.User) { own.Current = stranger.PublicKey() }, false},
		{"by a device that is not confirmed", byDevice, func(_ *Version, own *trustcache.User) { own.Devices[0].Signed = false }, false},
		{"by a device that is only trusted here", byDevice, func(_ *Version, own *trustcache.User) {
			own.Devices[0].Signed, own.Devices[0].Override = false, trustcache.OverrideTrusted
		}, false},
		{"by a device at fault", byDevice, func(_ *Version, own *trustcache.User) { own.Devices[0].Fault = trustcache.FaultIdentityKey }, false},
		{"by a device that is gone", byDevice, func(_ *Version, own *trustcache.User) { own.Devices = nil }, false},
		{"by somebody under the identity's name", signed(alice, master.PublicKey().String(), stranger), nil, false},
		{"by somebody under the device's name", signed(alice, "PHONE", stranger), nil, false},
		{"by the identity in another user's name", signed("@mallory:x", master.PublicKey().String(), master), nil, false},
		{"by the device under the identity's name (1.25)", signed(alice, master.PublicKey().String(), device), nil, false},
		{"of another algorithm", byMaster, func(v *Version, _ *trustcache.User) { v.Algorithm = "com.example" }, false},
		{"no version", byMaster, func(v *Version, _ *trustcache.User) { v.Version = "" }, false},
		{"a public key was put in after it was signed", byMaster, func(v *Version, _ *trustcache.User) {
			obj, err := strictjson.Parse(v.AuthData)
			if err != nil {
				t.Fatal(err)
			}
			other, err := backup.NewMegolmBackupKey()
			if err != nil {
				t.Fatal(err)
			}
			v.AuthData = obj.Set("public_key", strictjson.Quote(wire.Base64(other.PublicKey().Bytes()))).Encode()
		}, false},
	} {
		v := &Version{Algorithm: AlgorithmBackup, Version: "1", AuthData: tc.auth}
		own := &trustcache.User{
			UserID: alice, Own: true, Knowledge: trustcache.KnowledgeFresh,
			Pin: trustcache.Pin{Current: master.PublicKey(), PinnedMaster: master.PublicKey(), Verified: true, WasVerified: true},
			Devices: []trustcache.Device{{
				UserID: alice, DeviceID: "PHONE", Ed25519: device.PublicKey(), Curve25519: "curve", Signed: true,
				Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
			}},
		}
		if tc.change != nil {
			tc.change(v, own)
		}
		if got := v.SignedBy(own); got != tc.want {
			t.Errorf("%s: trusted %v", tc.name, got)
		}
		if fits := v.Trusts(key); fits != (v.PublicKey() != nil && v.PublicKey().Equal(key.PublicKey())) || v.Trusts(nil) {
			t.Errorf("%s: the private key fits: %v", tc.name, fits)
		}
	}
}

func TestBefore(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		version, other string
		want           bool
	}{
		{"1", "2", true}, {"9", "10", true}, {"2", "2", false}, {"3", "2", false},
		{"1", "", false}, {"a", "b", false}, {"1", "b", false}, {"a", "2", false},
	} {
		if got := (&Version{Version: tc.version}).Before(tc.other); got != tc.want {
			t.Errorf("%q before %q: %v", tc.version, tc.other, got)
		}
	}
}
