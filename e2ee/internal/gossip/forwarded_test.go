package gossip

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

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
	x := exchangeOf(core.Self{}, &core.Env{Now: nowAt(1000)})
	x.keyAsks = map[store.SessionRef]*keyAsk{ref: {id: "ask", to: map[id.DeviceID]bool{"OTHER": true}, until: nowAt(2000)()}}
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
		row, by := x.forwardedKey(msg, own)
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
		if _, by := x.forwardedKey(msg, &other); by != "" {
			t.Errorf("%s: the key of %q was taken", name, by)
		}
	}
}
