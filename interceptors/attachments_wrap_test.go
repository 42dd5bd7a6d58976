package interceptors

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
)

// A client forwards a file from a room without encryption, or sends a sticker of a pack, into an
// encrypted room: it names a file that is in clear. It was refused, so that neither could be
// done. Others are shown an encrypted copy, which is made once.
func TestFilesInClearAreSentEncrypted(t *testing.T) {
	t.Parallel()
	const uri = "mxc://remote.example/sticker"
	for name, c := range map[string]struct{ eventType, content string }{
		"picture": {"m.room.message", `{"msgtype":"m.image","body":"x","url":"URI","info":{"thumbnail_url":"URI"}}`},
		"sticker": {"m.sticker", `{"body":"x","url":"URI","info":{}}`},
		"gallery": {"m.room.message", `{"msgtype":"dm.filament.gallery","body":"x","itemtypes":[{"itemtype":"m.image","body":"a","url":"URI"},{"itemtype":"m.file","body":"b","url":"URI"}]}`},
		"edit":    {"m.room.message", `{"msgtype":"m.text","body":"x","m.new_content":{"msgtype":"m.image","body":"x","url":"URI"},"m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}`},
	} {
		w, store := newFileWorld(t, e2ee.ModeProxied)
		store.stored = map[string][]byte{"remote.example/sticker": []byte(secretFile)}
		w.up.types = map[string]string{"/_matrix/client/v1/media/download/remote.example/sticker": "image/webp"}
		content := strings.ReplaceAll(c.content, "URI", uri)
		for _, txn := range []string{"1", "2"} {
			send := sendCall(encryptedRoom, c.eventType, content)
			send.params["txnId"] = txn
			if _, err := w.do(send); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		w.wantNoClearText()
		sent := w.dev.outgoing[0]
		if strings.Contains(sent, uri) || strings.Count(sent, `"hashes"`) != strings.Count(content, uri) || w.dev.outgoing[1] != sent {
			t.Errorf("%s: %s\nbecame %s\nand then %s", name, content, sent, w.dev.outgoing[1])
		}
		copied := store.at("hs.example/m2")
		f := w.dev.files.known[uri]
		check := attachment.NewCheck()
		if _, err := check.Write(copied); err != nil || !check.Fits(&f) || f.URL != "mxc://hs.example/m2" || len(copied) != len(secretFile) {
			t.Errorf("%s: the copy has %d bytes: %+v", name, len(copied), f)
		}
		if store.count() != 2 || len(store.types) != 1 || store.types[0] != "application/octet-stream" {
			t.Errorf("%s: the homeserver has %d files, of %v", name, store.count(), store.types)
		}
		// Where everybody may read it, it is what it was, and it is downloaded as before.
		uploads := store.count()
		if _, err := w.do(sendCall(plainRoom, "m.room.message", `{"msgtype":"m.image","body":"x","url":"`+uri+`"}`)); err != nil {
			t.Fatal(err)
		}
		if all := w.up.requests(); !strings.Contains(all[len(all)-1].body, uri) || store.count() != uploads {
			t.Errorf("%s: in a plain room it is %s", name, all[len(all)-1].body)
		}
		if rec, err := w.do(downloadCall(uri)); err != nil || rec.Body.String() != secretFile {
			t.Errorf("%s: downloaded is %q, %v", name, rec.Body, err)
		}
	}
}

// A file that cannot be had, is too large, or may be one that this proxy encrypted once and has
// forgotten, is not sent, and the client is told; nothing is uploaded of it and nothing kept.
func TestFilesInClearThatCannotBeEncrypted(t *testing.T) {
	t.Parallel()
	const path = "/_matrix/client/v1/media/download/remote.example/a"
	for name, row := range map[string]struct {
		status int
		kind   string
		size   int
		want   int
		code   string
	}{
		"not there":      {http.StatusNotFound, "application/json", 10, http.StatusForbidden, apierr.CodeCannotEncrypt},
		"not for us":     {http.StatusForbidden, "application/json", 10, http.StatusForbidden, apierr.CodeCannotEncrypt},
		"its server":     {http.StatusBadGateway, "text/html", 10, http.StatusBadGateway, apierr.CodeUnknown},
		"too often":      {http.StatusTooManyRequests, "application/json", 10, http.StatusBadGateway, apierr.CodeUnknown},
		"one too many":   {http.StatusOK, "image/png", 101, http.StatusRequestEntityTooLarge, apierr.CodeTooLarge},
		"nothing of it":  {http.StatusOK, "application/octet-stream", 10, http.StatusForbidden, apierr.CodeCannotEncrypt},
		"no type at all": {http.StatusOK, "", 10, http.StatusForbidden, apierr.CodeCannotEncrypt},
	} {
		for _, announced := range []bool{true, false} {
			w := withOptions(t, e2ee.ModeProxied, Options{MaxUpload: 100})
			w.up.types, w.up.unannounced = map[string]string{path: row.kind}, !announced
			uploads := 0
			w.up.respond = func(s seen) (int, string) {
				if s.path == path {
					return row.status, strings.Repeat("x", row.size)
				}
				uploads++
				return http.StatusOK, `{"content_uri":"mxc://hs.example/copy"}`
			}
			_, err := w.do(sendCall(encryptedRoom, "m.room.message", `{"msgtype":"m.image","body":"x","url":"mxc://remote.example/a"}`))
			wantError(t, err, row.want, row.code)
			if uploads != 0 || len(w.dev.outgoing) != 0 || len(w.dev.files.known) != 0 {
				t.Errorf("%s: %d uploads, sent %v, known %v", name, uploads, w.dev.outgoing, w.dev.files.known)
			}
		}
	}
	// One that fits is sent, and a URI of the proxy's own that is not known is not asked for.
	w := withOptions(t, e2ee.ModeProxied, Options{MaxUpload: 100})
	w.up.types = map[string]string{path: "image/png"}
	w.up.respond = func(s seen) (int, string) {
		if s.path == path {
			return http.StatusOK, strings.Repeat("x", 100)
		}
		return http.StatusOK, `{"content_uri":"mxc://hs.example/copy","event_id":"$event"}`
	}
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", `{"msgtype":"m.file","body":"x","url":"mxc://remote.example/a"}`)); err != nil {
		t.Error(err)
	}
	var sent struct {
		File struct{ URL string } `json:"file"`
	}
	if err := json.Unmarshal([]byte(w.dev.outgoing[0]), &sent); err != nil || sent.File.URL != "mxc://hs.example/copy" {
		t.Errorf("sent %s, %v", w.dev.outgoing[0], err)
	}
	asked := len(w.up.requests())
	_, err := w.do(sendCall(encryptedRoom, "m.room.message", `{"msgtype":"m.file","body":"x","url":"mxc://remote.example/e2eeproxyAAAA"}`))
	wantError(t, err, http.StatusForbidden, apierr.CodeCannotEncrypt)
	if len(w.up.requests()) != asked {
		t.Error("the homeserver was asked for a URI that only the proxy knows")
	}
}
