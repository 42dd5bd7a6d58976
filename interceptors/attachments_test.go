package interceptors

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// A client without encryption sends a message that shows a file in clear into an encrypted room:
// the message was encrypted, and the picture was readable at the homeserver for ever. Where the
// proxy cannot have it to encrypt it, it is refused, in words that say why, and nothing is sent.
func TestAttachmentInClearIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ eventType, content string }{
		{"m.room.message", `{"msgtype":"m.image","body":"x.png","url":"mxc://hs/a"}`},
		{"m.room.message", `{"msgtype":"m.file","body":"x","url":"mxc://hs/a","filename":"x"}`},
		{"m.room.message", `{"msgtype":"m.audio","body":"x","url":"MXC://hs/a"}`},
		{"m.room.message", `{"msgtype":"m.video","body":"x","url":" mxc://hs/a"}`},
		{"m.room.message", `{"msgtype":"m.location","body":"x","geo_uri":"geo:1,2","info":{"thumbnail_url":"mxc://hs/a"}}`},
		{"m.room.message", `{"msgtype":"m.image","body":"x","file":{"url":"mxc://hs/a"},"info":{"thumbnail_url":"mxc://hs/b"}}`},
		{"m.room.message", `{"msgtype":"m.image","body":"x","file":{"url":"mxc://hs/a"},"url":"mxc://hs/b"}`},
		{"m.room.message", `{"msgtype":"m.text","body":"* x","m.new_content":{"msgtype":"m.image","body":"x","url":"mxc://hs/a"},"m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}`},
		{"m.sticker", `{"body":"x","url":"mxc://hs/a","info":{}}`},
		{"m.room.message", `{"msgtype":"dm.filament.gallery","body":"x","itemtypes":[{"itemtype":"m.file","file":{}},{"itemtype":"m.image","url":"mxc://hs/a"}]}`},
	} {
		for _, call := range []call{sendCall(encryptedRoom, c.eventType, c.content), postCall(encryptedRoom, c.eventType, c.content)} {
			w, store := newFileWorld(t, e2ee.ModeProxied) // which has no such file
			_, err := w.do(call)
			e := shown(t, err, http.StatusForbidden, apierr.CodeCannotEncrypt)
			if !strings.Contains(e.Public(), "the file of this message is not") {
				t.Errorf("%s: %q", c.content, e.Public())
			}
			if len(w.dev.outgoing) != 0 || len(w.up.requests()) != len(store.asked) {
				t.Errorf("%s: sent %v, %v", c.content, w.dev.outgoing, w.up.requests())
			}
		}
	}
}

// Files that are encrypted, links to elsewhere, and all that is no file go on as before;
// so does everything in a room that is not encrypted.
func TestWhatIsNoAttachmentInClear(t *testing.T) {
	t.Parallel()
	for _, content := range []string{
		`{"msgtype":"m.image","body":"x","file":{"url":"mxc://hs/a","key":{}},"info":{"thumbnail_file":{"url":"mxc://hs/b"}}}`,
		`{"msgtype":"m.image","body":"x","url":"https://elsewhere.example/a.png"}`,
		`{"msgtype":"m.text","body":"see mxc://hs/a","url":"mxc://hs/a"}`,
		`{"msgtype":"m.image","body":"x"}`,
	} {
		w := newWorld(t, e2ee.ModeProxied)
		if _, err := w.do(sendCall(encryptedRoom, "m.room.message", content)); err != nil {
			t.Errorf("%s: %v", content, err)
		}
		w.wantNoClearText()
	}
	w := newWorld(t, e2ee.ModeProxied)
	image := `{"msgtype":"m.image","body":"x","url":"mxc://hs/a"}`
	if _, err := w.do(sendCall(plainRoom, "m.room.message", image)); err != nil {
		t.Error(err)
	}
}
