package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// upload uploads a file as a client without encryption does.
func (c *curl) upload(name, contentType string, data []byte) string {
	c.t.Helper()
	resp := c.raw(http.MethodPost, "/_matrix/media/v3/upload?filename="+name, data, "Content-Type", contentType)
	var answer struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(resp.body, &answer); err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("upload: %d %s", resp.StatusCode, resp.body)
	}
	return answer.URI
}

// rawAnswer is an answer that need not be JSON.
type rawAnswer struct {
	*http.Response
	body []byte
}

// raw sends any bytes, with header lines in pairs.
func (c *curl) raw(method, path string, body []byte, header ...string) rawAnswer {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.http.URL+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.http.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.http.Token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return rawAnswer{resp, all}
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// message is the content of a message with a file; nobody looks into it.
func message(kind, name, mimetype string, more map[string]any) map[string]any {
	content := map[string]any{"msgtype": kind, "body": name, "info": map[string]any{"mimetype": mimetype}}
	maps.Copy(content, more)
	return content
}

// A client that knows nothing of encryption sends a picture and a large file into an encrypted
// room, and opens those that Element sends: byte for byte, while the homeserver has nothing but
// ciphertext. Nobody else gets them in clear, and not without a token.
func TestFilesBothWays(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		b, m := newAccount(t, hs, "bob"), newAccount(t, hs, "mallory")
		bob, mallory := loginCurl(t, proxy.URL, b, "BOB"), loginCurl(t, proxy.URL, m, "MALLORY")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")

		for _, f := range []struct {
			seed, kind, name, mimetype string
			size                       int
		}{{"picture", "m.image", "a.png", "image/png", 70_000}, {"large", "m.file", "a.bin", "application/x-thing", 60 << 20}} {
			clear := testpeer.Pattern(f.seed, f.size)
			// From the plain client to Element.
			uri := bob.upload(f.name, f.mimetype, clear)
			sent := bob.send(room, "m.room.message", message(f.kind, f.name, f.mimetype, map[string]any{"url": uri}))
			got := alice.AwaitDecrypted(room, sent)
			var content struct {
				URL  string          `json:"url"`
				File json.RawMessage `json:"file"`
			}
			if err := json.Unmarshal(got.Content, &content); err != nil || content.URL != "" || content.File == nil {
				t.Fatalf("%v: alice sees %s", err, got.Content)
			}
			read := alice.ReadEncrypted(content.File)
			if read.Size != f.size || read.SHA256 != sumOf(clear) || read.Sealed == read.SHA256 {
				t.Errorf("%s: alice reads %+v", f.name, read)
			}
			shown := bob.Await(room, testpeer.Where{"event_id": sent, "decrypted": true})
			bob.wantFile(shown, clear, f.name, f.mimetype)

			// From Element to the plain client.
			file := alice.UploadEncrypted("from alice "+f.seed, f.size)
			theirs := alice.Send(room, "m.room.message", message(f.kind, f.name, f.mimetype, map[string]any{"file": file}))
			shown = bob.Await(room, testpeer.Where{"event_id": theirs, "decrypted": true})
			url := bob.wantFile(shown, testpeer.Pattern("from alice "+f.seed, f.size), f.name, f.mimetype)

			// Nobody else.
			for who, c := range map[string]*curl{"mallory": mallory, "nobody": newCurl(t, proxy.URL, tesths.Account{})} {
				for _, older := range []string{"/_matrix/client/v1/media/download/", "/_matrix/media/v3/download/"} {
					for _, at := range []string{url, uri} {
						if resp := c.raw(http.MethodGet, older+strings.TrimPrefix(at, "mxc://"), nil); bytes.Contains(resp.body, clear[:64]) {
							t.Errorf("%s gets %s in clear", who, at)
						}
					}
				}
			}
		}
	})
}

// A plain client sends a picture with a thumbnail of its own, a voice message and a sticker, as it does
// in a room without encryption: Element opens each, and the thumbnail, byte for byte.
func TestFilesOfEverySortAreReadByElement(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")

		small := testpeer.Pattern("thumbnail", 3_000)
		thumbnail := bob.upload("t.png", "image/png", small)
		for _, f := range []struct {
			eventType, name, mimetype string
			more                      map[string]any
		}{
			{"m.room.message", "a.png", "image/png", map[string]any{"msgtype": "m.image", "info": map[string]any{"thumbnail_url": thumbnail, "w": 900, "h": 700}}},
			{"m.room.message", "voice.ogg", "audio/ogg", map[string]any{"msgtype": "m.audio", "org.matrix.msc3245.voice": map[string]any{}}},
			{"m.sticker", "sticker.webp", "image/webp", map[string]any{"info": map[string]any{"w": 64}}},
		} {
			clear := testpeer.Pattern(f.name, 40_000)
			content := map[string]any{"body": f.name, "url": bob.upload(f.name, f.mimetype, clear)}
			maps.Copy(content, f.more)
			sent := bob.send(room, f.eventType, content)
			m := alice.AwaitDecrypted(room, sent)
			var got struct {
				URL  string          `json:"url"`
				File json.RawMessage `json:"file"`
				Info struct {
					URL  string          `json:"thumbnail_url"`
					File json.RawMessage `json:"thumbnail_file"`
				} `json:"info"`
			}
			if err := json.Unmarshal(m.Content, &got); err != nil || m.Type != f.eventType || got.URL != "" || got.File == nil || got.Info.URL != "" {
				t.Fatalf("%s: %v: alice sees %s %s", f.name, err, m.Type, m.Content)
			}
			if read := alice.ReadEncrypted(got.File); read.SHA256 != sumOf(clear) || read.Sealed == read.SHA256 {
				t.Errorf("%s: alice reads %+v", f.name, read)
			}
			if f.name != "a.png" {
				continue
			}
			if got.Info.File == nil {
				t.Fatalf("%s: alice sees %s", f.name, m.Content)
			}
			if read := alice.ReadEncrypted(got.Info.File); read.SHA256 != sumOf(small) || read.Sealed == read.SHA256 {
				t.Errorf("%s: alice reads the thumbnail %+v", f.name, read)
			}
		}
	})
}

// wantFile fails unless a message shows a file of these bytes, and returns its URI.
func (c *curl) wantFile(m testpeer.Message, want []byte, name, mimetype string) string {
	c.t.Helper()
	var content struct {
		URL  string          `json:"url"`
		File json.RawMessage `json:"file"`
	}
	if err := json.Unmarshal(m.Content, &content); err != nil || content.URL == "" || content.File != nil {
		c.t.Fatalf("%v: %s is shown %s", err, c.account.UserID, m.Content)
	}
	id := strings.TrimPrefix(content.URL, "mxc://")
	for _, path := range []string{"/_matrix/client/v1/media/download/", "/_matrix/media/v3/download/", "/_matrix/media/r0/download/"} {
		got := c.raw(http.MethodGet, path+id, nil)
		if got.StatusCode != http.StatusOK || sumOf(got.body) != sumOf(want) {
			c.t.Errorf("%s: %d, %d bytes, want %d", path, got.StatusCode, len(got.body), len(want))
		}
		if kind := got.Header.Get("Content-Type"); strings.HasPrefix(mimetype, "image/") && kind != mimetype || got.Header.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.Contains(got.Header.Get("Content-Disposition"), name) {
			c.t.Errorf("%s: %v", path, got.Header)
		}
	}
	part := c.raw(http.MethodGet, "/_matrix/client/v1/media/download/"+id, nil, "Range", "bytes=1000-1999")
	if part.StatusCode != http.StatusPartialContent || !bytes.Equal(part.body, want[1000:2000]) {
		c.t.Errorf("a part: %d, %d bytes", part.StatusCode, len(part.body))
	}
	head := c.raw(http.MethodHead, "/_matrix/client/v1/media/download/"+id, nil)
	if head.StatusCode != http.StatusOK || head.ContentLength != int64(len(want)) || len(head.body) != 0 {
		c.t.Errorf("HEAD: %d, length %d, %d bytes", head.StatusCode, head.ContentLength, len(head.body))
	}
	return content.URL
}
