package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// shownFile returns the URI of a file that a message shows.
func (c *curl) shownFile(m testpeer.Message) string {
	c.t.Helper()
	var content struct {
		URL  string          `json:"url"`
		File json.RawMessage `json:"file"`
	}
	if err := json.Unmarshal(m.Content, &content); err != nil || content.URL == "" || content.File != nil {
		c.t.Fatalf("%v: shown is %s", err, m.Content)
	}
	return content.URL
}

// A client that sends no token with downloads (matterbridge, Ement.el, opsdroid) opens encrypted
// files by the links that it is shown, on all endpoints, until it logs out; the homeserver knows
// nothing of a link, and no log has it. A file that is in clear at the homeserver, as one that
// is forwarded, is sent encrypted, once.
func TestLinksAndForwardedFiles(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{Args: []string{"--media-links"}})
		a, b := newAccount(t, hs, "alice"), newAccount(t, hs, "bob")
		alice, bob := loginCurl(t, proxy.URL, a, "ALICE"), loginCurl(t, proxy.URL, b, "BOB")
		bob.awaitSigned() // before that he is given no keys
		room := alice.createRoom(b.UserID)
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.awaitMember(room, b.UserID, "join")
		nobody, direct := newCurl(t, proxy.URL, tesths.Account{}), newCurl(t, hs.URL, tesths.Account{})

		plain := testpeer.Pattern("sticker", 30_000)
		outside := newCurl(t, hs.URL, a) // an upload that does not pass the proxy
		outside.http.Token = alice.http.Token
		for _, row := range []struct {
			what  string
			uri   string
			clear []byte
		}{
			{"uploaded", "", testpeer.Pattern("picture", 70_000)},
			{"forwarded", outside.upload("s.png", "image/png", plain), plain},
		} {
			what := row.what
			if row.uri == "" {
				row.uri = alice.upload("a.png", "image/png", row.clear)
			}
			sent := alice.send(room, "m.room.message", message("m.image", "a.png", "image/png", map[string]any{"url": row.uri}))
			for who, c := range map[string]*curl{"alice": alice, "bob": bob} {
				link := strings.TrimPrefix(c.shownFile(c.Await(room, testpeer.Where{"event_id": sent, "decrypted": true})), "mxc://")
				for _, at := range []string{"/_matrix/client/v1/media/download/", "/_matrix/media/v3/download/", "/_matrix/media/r0/download/"} {
					if resp := nobody.raw(http.MethodGet, at+link, nil); resp.StatusCode != http.StatusOK || !bytes.Equal(resp.body, row.clear) || resp.Header.Get("Content-Type") != "image/png" {
						t.Errorf("%s, %s: by the link on %s: %d, %d bytes, %v", what, who, at, resp.StatusCode, len(resp.body), resp.Header)
					}
					if resp := direct.raw(http.MethodGet, at+link, nil); resp.StatusCode == http.StatusOK {
						t.Errorf("%s, %s: the homeserver knows the link", what, who)
					}
				}
				if resp := nobody.raw(http.MethodGet, "/_matrix/client/v1/media/download/"+link, nil, "Range", "bytes=100-199"); resp.StatusCode != http.StatusPartialContent || !bytes.Equal(resp.body, row.clear[100:200]) {
					t.Errorf("%s, %s: a part: %d", what, who, resp.StatusCode)
				}
				if resp := nobody.raw(http.MethodGet, "/_matrix/client/v1/media/download/"+link[:len(link)-1], nil); resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s, %s: a link cut off: %d %s", what, who, resp.StatusCode, resp.body)
				}
				if strings.Contains(proxy.Log(), link[strings.IndexByte(link, '/'):]) {
					t.Errorf("%s, %s: the log has the link", what, who)
				}
			}
			last := strings.TrimPrefix(bob.shownFile(bob.Await(room, testpeer.Where{"event_id": sent, "decrypted": true})), "mxc://")
			if what != "forwarded" {
				continue
			}
			alice.call(http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil)
			if resp := nobody.raw(http.MethodGet, "/_matrix/client/v1/media/download/"+last, nil); resp.StatusCode != http.StatusOK {
				t.Errorf("Bob's link after Alice's logout: %d", resp.StatusCode)
			}
			bob.call(http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil)
			if resp := nobody.raw(http.MethodGet, "/_matrix/client/v1/media/download/"+last, nil); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("Bob's link after his logout: %d %s", resp.StatusCode, resp.body)
			}
		}
	})
}
