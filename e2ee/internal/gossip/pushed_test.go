package gossip

import (
	"encoding/json"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

func pushed(name string, value []byte) json.RawMessage {
	return strictjson.Object{{Name: "name", Value: strictjson.Quote(name)}, {Name: "secret", Value: strictjson.Quote(wire.Base64(value))}}.Encode()
}

// Attack: somebody pushes a secret that nobody asked for, to have the history backed up under a
// key of theirs or an identity of theirs used. Only a confirmed device of the user is believed,
// only about the backup's key; and that is kept apart until it was compared with the backup
// (ownbackup.CheckReceived). In every row but the first one thing is not as it must be.
func TestWhosePushedSecretsAreTaken(t *testing.T) {
	t.Parallel()
	counts, err := core.NewCounts(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	master, err := pk.NewSigning()
	if err != nil {
		t.Fatal(err)
	}
	public := master.PublicKey()
	for _, tc := range []struct {
		name   string
		change func(msg *olm.Received, own *trustcache.User)
		taken  bool
	}{
		{"as it should be", func(*olm.Received, *trustcache.User) {}, true},
		{"a private key of the identity", func(msg *olm.Received, _ *trustcache.User) {
			msg.Content = pushed(identity.SecretMaster, master.Seed())
		}, false},
		{"another secret", func(msg *olm.Received, _ *trustcache.User) { msg.Content = pushed("m.other", key.Bytes()) }, false},
		{"no key", func(msg *olm.Received, _ *trustcache.User) {
			msg.Content = pushed(identity.SecretBackup, []byte("short"))
		}, false},
		{"of another user", func(msg *olm.Received, _ *trustcache.User) { msg.Sender = "@mallory:x" }, false},
		{"the own user is not known", func(_ *olm.Received, own *trustcache.User) { own.Knowledge = trustcache.KnowledgeUnknown }, false},
		{"the own identity is not verified", func(_ *olm.Received, own *trustcache.User) { own.Verified = false }, false},
		{"of a device that is not listed", func(_ *olm.Received, own *trustcache.User) { own.Devices = nil }, false},
		{"of a device that is not confirmed", func(_ *olm.Received, own *trustcache.User) { own.Devices[0].Signed = false }, false},
		{"of a device that is only trusted here", func(_ *olm.Received, own *trustcache.User) {
			own.Devices[0].Signed, own.Devices[0].Override = false, trustcache.OverrideTrusted
		}, false},
		{"of a device that is distrusted", func(_ *olm.Received, own *trustcache.User) {
			own.Devices[0].Override = trustcache.OverrideDistrusted
		}, false},
		{"of a dehydrated device", func(_ *olm.Received, own *trustcache.User) { own.Devices[0].Dehydrated = true }, false},
		{"over a session of another Curve25519 key", func(msg *olm.Received, _ *trustcache.User) { msg.SenderKey = "another" }, false},
		{"in the name of another Ed25519 key", func(msg *olm.Received, _ *trustcache.User) { msg.Keys.Ed25519 = "another" }, false},
	} {
		x := exchangeOf(core.Self{ID: "MINE"}, &core.Env{Now: nowAt(1000), Counts: counts})
		own := &trustcache.User{
			UserID: "@alice:x", Own: true, Knowledge: trustcache.KnowledgeFresh,
			Pin: trustcache.Pin{Current: public, PinnedMaster: public, Verified: true, WasVerified: true},
			Devices: []trustcache.Device{{
				UserID: "@alice:x", DeviceID: "OTHER", Ed25519: "ed", Curve25519: "curve", Signed: true,
				Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
			}},
		}
		msg := &olm.Received{SenderKey: "curve", Envelope: olm.Envelope{Sender: "@alice:x", Keys: olm.EdKey{Ed25519: "ed"}, Content: pushed(identity.SecretBackup, key.Bytes())}}
		tc.change(msg, own)
		in, ch := x.Receive(), &store.Changes{}
		in.handlePushed(msg, own, ch)
		if taken := len(ch.Secrets) > 0; taken != tc.taken || taken != in.taken {
			t.Errorf("%s: taken %v", tc.name, taken)
		}
		if tc.taken && ch.Secrets[0].Name != identity.SecretBackupReceived {
			t.Errorf("%s: it is kept as %s", tc.name, ch.Secrets[0].Name)
		}
	}
}
