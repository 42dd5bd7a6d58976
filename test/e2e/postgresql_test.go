package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"testing"

	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproxy"
)

// The same conversation with everything in PostgreSQL, and once more after the proxy
// was killed.
func TestOnPostgreSQL(t *testing.T) {
	t.Parallel()
	var server testpg.Server
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	hs := shared.Dendrite(t)
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{Config: fmt.Sprintf(
		"database: {url: %q}\nmaster_key: {key: %q}\n", server.Database(t), base64.StdEncoding.EncodeToString(key))})
	alice := element(t, hs, testpeer.NodeHost(t), "alice")
	bot := newAccount(t, hs, "bot")
	bob := loginCurl(t, proxy.URL, bot, "")
	converse(t, hs, alice, bob, bot)

	proxy.Kill()
	if err := proxy.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	room := bob.createRoom(alice.UserID)
	alice.AwaitRoom(room, "invite")
	alice.Join(room)
	sent := bob.SendText(room, "still the same device")
	wantClean(t, alice.AwaitDecrypted(room, sent), "still the same device")
}
