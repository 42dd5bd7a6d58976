package clients

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/testpeer"
)

// picture shows a picture both ways, as far as the client can: what it sends the peer opens,
// encrypted by itself; what the peer sends the client opens, byte for byte.
func (p *place) picture(t *testing.T, c client, when string) {
	t.Helper()
	when = strings.ReplaceAll(when, " ", "-")
	if c.sends != nil {
		name := "from-the-client-" + when + ".png"
		file := filepath.Join(p.dir, name)
		data := newPicture(t, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c.sends(t, file)
		var content struct {
			MsgType string          `json:"msgtype"`
			URL     string          `json:"url"`
			File    json.RawMessage `json:"file"`
		}
		m := p.wantRead(t, name)
		if err := json.Unmarshal(m.Content, &content); err != nil {
			t.Fatal(err)
		}
		if content.MsgType != "m.image" || content.URL != "" || content.File == nil {
			t.Fatalf("the peer sees %s", m.Content)
		}
		sum := sha256.Sum256(data)
		if read := p.peer.ReadEncrypted(content.File); read.SHA256 != hex.EncodeToString(sum[:]) || read.Sealed == read.SHA256 {
			t.Errorf("the peer opens %+v", read)
		}
	}
	if c.opens != nil {
		name := "from-the-peer-" + when + ".png"
		data := newPicture(t, name)
		p.peer.Send(p.room, "m.room.message", map[string]any{
			"msgtype": "m.image", "body": name, "info": map[string]any{"mimetype": "image/png", "size": len(data)},
			"file": p.peer.UploadBytesEncrypted(data),
		})
		if got := c.opens(t, name); !bytes.Equal(got, data) {
			t.Errorf("it opens %d bytes that are not the picture of %d", len(got), len(data))
		}
	}
}

// newPicture returns a picture that no other test has.
func newPicture(t *testing.T, name string) []byte {
	t.Helper()
	const side = 40
	pixels := &image.NRGBA{Pix: testpeer.Pattern(t.Name()+name, 4*side*side), Stride: 4 * side, Rect: image.Rect(0, 0, side, side)}
	var file bytes.Buffer
	if err := png.Encode(&file, pixels); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}
