package tesths_test

import (
	"net/http"
	"os"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproc"
)

// Both real servers start, make accounts, and keep data and port over a restart.
func TestHomeservers(t *testing.T) {
	for name, start := range map[string]func(testproc.TB) *tesths.Homeserver{
		"dendrite": tesths.Dendrite, "synapse": tesths.Synapse,
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t)
			alice, err := h.Register(t.Context(), "alice", "wonderland")
			if err != nil {
				t.Fatal(err)
			}
			if alice.UserID != "@alice:"+tesths.ServerName || alice.AccessToken == "" || alice.DeviceID == "" {
				t.Fatalf("registered as %q with device %q", alice.UserID, alice.DeviceID)
			}
			if err := h.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			again, err := h.Client().Login(t.Context(), "alice", "wonderland", "SECOND")
			if err != nil {
				t.Fatal(err)
			}
			var who struct {
				DeviceID string `json:"device_id"`
			}
			if err := h.Client().As(again).Call(t.Context(), http.MethodGet, "/_matrix/client/v3/account/whoami", nil, &who); err != nil {
				t.Fatal(err)
			}
			if who.DeviceID != "SECOND" {
				t.Errorf("whoami says device %q", who.DeviceID)
			}
		})
	}
}

var shared tesths.Shared

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// All tests of one test binary get the same server.
func TestShared(t *testing.T) {
	if a, b := shared.Dendrite(t), shared.Dendrite(t); a != b {
		t.Errorf("two servers: %s and %s", a.URL, b.URL)
	}
}
