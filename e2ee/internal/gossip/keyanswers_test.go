package gossip

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A key that begins late is passed on with the reason why its beginning is missing, if one was
// told; one that is whole, or of which nothing was told, is passed on without (requirement 10.5).
func TestForwardSaysWhyItBeginsLate(t *testing.T) {
	t.Parallel()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	whole := megolmAt(t, out)
	advance(t, out, 5)
	late := megolmAt(t, out)
	owner, err := megolm.WriteOwner(trustcache.Owner{UserID: "@bob:x", Curve25519: "b", Ed25519: "B"})
	if err != nil {
		t.Fatal(err)
	}
	note := store.WithheldNote{Code: "m.unverified", Reason: "not yet"}
	for name, tc := range map[string]struct {
		sess *session.MegolmInboundSession
		note store.WithheldNote
		want string
	}{
		"late, with a reason":  {late, note, `{"code":"m.unverified","reason":"not yet"}`},
		"late, nothing told":   {late, store.WithheldNote{}, ""},
		"whole, with a reason": {whole, note, ""},
	} {
		raw, err := forwardContent(&store.InboundSession{
			SessionRef: store.SessionRef{RoomID: "!r:x", SessionID: tc.sess.ID()},
			Pickle:     tc.sess.PickleLibOlm(), Owner: owner, FirstIndex: tc.sess.FirstKnownIndex(),
		}, tc.note)
		if err != nil {
			t.Fatal(err)
		}
		var content struct {
			Withheld json.RawMessage `json:"withheld"`
		}
		if err := json.Unmarshal(raw, &content); err != nil || string(content.Withheld) != tc.want {
			t.Errorf("%s: %s, want %s, %v", name, content.Withheld, tc.want, err)
		}
	}
}
