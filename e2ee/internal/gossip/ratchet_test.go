package gossip

import (
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
)

// megolmAt makes an inbound session from an outbound one, at its current index.
func megolmAt(t *testing.T, out *session.MegolmOutboundSession) *session.MegolmInboundSession {
	t.Helper()
	key, err := out.SessionSharingMessage()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.NewMegolmInboundSession(key)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func advance(t *testing.T, out *session.MegolmOutboundSession, n int) {
	t.Helper()
	for range n {
		if _, err := out.Encrypt([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}
