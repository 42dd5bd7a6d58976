package e2e

import (
	"encoding/json"
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// A client uploads more than the homeserver takes, and less than the proxy does. Dendrite says so
// at once, Synapse breaks the connection; the client is told that it is too large either way.
func TestUploadsThatTheHomeserverDoesNotTake(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := loginCurl(t, proxy.URL, newAccount(t, hs, "alice"), "ALICE")
		var limits struct {
			Upload int `json:"m.upload.size"`
		}
		if resp := alice.raw(http.MethodGet, "/_matrix/client/v1/media/config", nil); json.Unmarshal(resp.body, &limits) != nil || limits.Upload == 0 {
			t.Fatalf("the limit is %s", resp.body)
		}
		if resp := alice.raw(http.MethodPost, "/_matrix/media/v3/upload", make([]byte, limits.Upload+16<<20)); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%d %s", resp.StatusCode, resp.body)
		}
	})
}
