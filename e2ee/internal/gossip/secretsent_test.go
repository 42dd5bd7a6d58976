package gossip

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

// Requirements 15.2 and 15.3, attack A13, one condition after the other: whose secret is
// taken, and which. In every row but the first one thing is not as it must be.
func TestWhoseSecretsAreTaken(t *testing.T) {
	t.Parallel()
	reg, refused := prometheus.NewRegistry(), 0.0
	counts, err := core.NewCounts(reg)
	if err != nil {
		t.Fatal(err)
	}
	master, err := pk.NewSigning()
	if err != nil {
		t.Fatal(err)
	}
	other, err := pk.NewSigning()
	if err != nil {
		t.Fatal(err)
	}
	public := master.PublicKey()
	for _, tc := range []struct {
		name   string
		change func(x *Exchange, msg *olm.Received, own *trustcache.User)
		taken  bool
	}{
		{"as asked", func(*Exchange, *olm.Received, *trustcache.User) {}, true},
		{"padded (14.3)", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) {
			msg.Content = answerWith("ask", wire.Base64(master.Seed())+"=")
		}, true},
		{"another request", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) {
			msg.Content = answerWith("other", wire.Base64(master.Seed()))
		}, false},
		{"no request", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) {
			msg.Content = answerWith("", wire.Base64(master.Seed()))
		}, false},
		{"nothing was asked for", func(x *Exchange, _ *olm.Received, _ *trustcache.User) { x.secretAsks = nil }, false},
		{"late", func(x *Exchange, _ *olm.Received, _ *trustcache.User) { x.Env.Now = nowAt(3000) }, false},
		{"of another user", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) { msg.Sender = "@mallory:x" }, false},
		{"the own user is not known", func(_ *Exchange, _ *olm.Received, own *trustcache.User) { own.Knowledge = trustcache.KnowledgeUnknown }, false},
		{"the own identity is not verified", func(_ *Exchange, _ *olm.Received, own *trustcache.User) { own.Verified = false }, false},
		{"of a device that is not listed", func(_ *Exchange, _ *olm.Received, own *trustcache.User) { own.Devices = nil }, false},
		{"of a device that is not confirmed", func(_ *Exchange, _ *olm.Received, own *trustcache.User) { own.Devices[0].Signed = false }, false},
		{"of a device that is only trusted here", func(_ *Exchange, _ *olm.Received, own *trustcache.User) {
			own.Devices[0].Signed, own.Devices[0].Override = false, trustcache.OverrideTrusted
		}, false},
		{"of a device that is distrusted", func(_ *Exchange, _ *olm.Received, own *trustcache.User) {
			own.Devices[0].Override = trustcache.OverrideDistrusted
		}, false},
		{"of a dehydrated device (24.2)", func(_ *Exchange, _ *olm.Received, own *trustcache.User) { own.Devices[0].Dehydrated = true }, false},
		{"of a device at fault (A16)", func(_ *Exchange, _ *olm.Received, own *trustcache.User) {
			own.Devices[0].Fault = trustcache.FaultSharedKey
		}, false},
		{"of a device that was not asked", func(x *Exchange, _ *olm.Received, _ *trustcache.User) {
			x.secretAsks[identity.SecretMaster].to = map[id.DeviceID]bool{"THIRD": true}
		}, false},
		{"over a session of another Curve25519 key", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) { msg.SenderKey = "another" }, false},
		{"in the name of another Ed25519 key", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) { msg.Keys.Ed25519 = "another" }, false},
		{"another key than the published one", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) {
			msg.Content = answerWith("ask", wire.Base64(other.Seed()))
		}, false},
		{"no key is published", func(_ *Exchange, _ *olm.Received, own *trustcache.User) { own.Current = "" }, false},
		{"no base64", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) { msg.Content = answerWith("ask", "???") }, false},
		{"too long", func(_ *Exchange, msg *olm.Received, _ *trustcache.User) {
			msg.Content = answerWith("ask", wire.Base64(make([]byte, 2*maxSecret)))
		}, false},
	} {
		x := exchangeOf(core.Self{ID: "MINE"}, &core.Env{Now: nowAt(1000), Counts: counts})
		x.secretAsks = map[string]*secretAsk{identity.SecretMaster: {name: identity.SecretMaster, id: "ask", to: map[id.DeviceID]bool{"OTHER": true, "THIRD": true}, until: nowAt(2000)()}}
		own := &trustcache.User{
			UserID: "@alice:x", Own: true, Knowledge: trustcache.KnowledgeFresh,
			Pin: trustcache.Pin{Current: public, PinnedMaster: public, Verified: true, WasVerified: true},
			Devices: []trustcache.Device{{
				UserID: "@alice:x", DeviceID: "OTHER", Ed25519: "ed", Curve25519: "curve", Signed: true,
				Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
			}},
		}
		msg := &olm.Received{SenderKey: "curve", Envelope: olm.Envelope{Sender: "@alice:x", Keys: olm.EdKey{Ed25519: "ed"}, Content: answerWith("ask", wire.Base64(master.Seed()))}}
		tc.change(x, msg, own)
		in, ch := x.Receive(), &store.Changes{}
		in.handleSecret(msg, own, ch)
		if taken := len(ch.Secrets) > 0; taken != tc.taken || taken != (len(in.answered) > 0) {
			t.Errorf("%s: taken %v", tc.name, taken)
		}
		if tc.taken && (ch.Secrets[0].Name != identity.SecretMaster || wire.Base64(ch.Secrets[0].Value.Reveal()) != wire.Base64(master.Seed())) {
			t.Errorf("%s: another secret was taken", tc.name)
		}
		if !tc.taken {
			refused++
		}
		if got := refusedSecrets(t, reg); got != refused {
			t.Errorf("%s: %v secrets were refused so far, want %v", tc.name, got, refused)
		}
	}
}

// exchangeOf returns the exchange of a device that has no host.
func exchangeOf(self core.Self, env *core.Env) *Exchange {
	x := New(&core.Device{Env: env, Account: &core.Account{Env: env, User: "@me:x"}, Self: self}, nil)
	return &x
}

func nowAt(second int64) func() time.Time { return func() time.Time { return time.Unix(second, 0) } }

func answerWith(request, secret string) json.RawMessage {
	return strictjson.Object{{Name: "request_id", Value: strictjson.Quote(request)}, {Name: "secret", Value: strictjson.Quote(secret)}}.Encode()
}

// refusedSecrets returns how many secrets of other devices were refused so far.
func refusedSecrets(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "e2ee_proxy_shared_secrets_total" && m.GetLabel()[0].GetValue() == "refused" {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
