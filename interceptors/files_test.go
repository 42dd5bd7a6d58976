package interceptors

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
)

const secretFile = "the bytes of a file, " + canary

// What a proxied device uploads reaches the homeserver encrypted, as nothing but bytes: no name,
// no type. The message that shows it in an encrypted room has `file` and no `url`, and what it
// names is what was uploaded.
func TestUploadsAreEncrypted(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	uri, thumbnail := w.upload(secretFile), w.upload("smaller "+secretFile)
	if diff := cmp.Diff([]string{"application/octet-stream", "application/octet-stream"}, store.types); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	w.wantNoClearText()
	content := `{"msgtype":"m.image","body":"a.png","url":"` + uri + `","info":{"w":1,"thumbnail_url":"` + thumbnail + `","thumbnail_info":{"w":2}}}`
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", content)); err != nil {
		t.Fatal(err)
	}
	w.wantNoClearText()
	var got struct {
		URL  *string `json:"url"`
		File struct {
			URL string `json:"url"`
			V   string `json:"v"`
			Key struct {
				K   string `json:"k"`
				Alg string `json:"alg"`
			} `json:"key"`
			Hashes map[string]string `json:"hashes"`
		} `json:"file"`
		Info map[string]json.RawMessage `json:"info"`
	}
	if err := json.Unmarshal([]byte(w.dev.outgoing[0]), &got); err != nil {
		t.Fatal(err)
	}
	if got.URL != nil || got.File.URL != uri || got.File.V != "v2" || len(got.File.Key.K) != 43 || got.File.Key.Alg != "A256CTR" || got.File.Hashes["sha256"] == "" {
		t.Errorf("encrypted was %s", w.dev.outgoing[0])
	}
	if got.Info["thumbnail_url"] != nil || !contains(got.Info["thumbnail_file"], thumbnail) || got.Info["w"] == nil {
		t.Errorf("its info is %s", w.dev.outgoing[0])
	}
	if slices.Sort(w.dev.files.used); !slices.Equal(w.dev.files.used, []string{uri, thumbnail}) {
		t.Errorf("kept are %v", w.dev.files.used)
	}
	if store.count() != 2 {
		t.Errorf("the homeserver has %d files: nobody asked for a copy in clear", store.count())
	}
}

// Where a file may stand in an event: all forms that clients use, also in an edit.
func TestPlacesOfFiles(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"sticker":             `{"body":"x","url":"URI","info":{}}`,
		"voice message":       `{"msgtype":"m.audio","body":"x","url":"URI","org.matrix.msc1767.file":{"url":"URI","name":"x"},"org.matrix.msc3245.voice":{}}`,
		"extensible":          `{"msgtype":"m.x","m.text":[{"body":"x"}],"m.file":{"url":"URI","mimetype":"image/png"}}`,
		"extensible, smaller": `{"msgtype":"m.x","m.thumbnail":[{"m.file":{"url":"URI"},"m.image_details":{"width":1}}]}`,
		"gallery":             `{"msgtype":"dm.filament.gallery","body":"x","itemtypes":[{"itemtype":"m.image","body":"a","url":"URI","info":{"thumbnail_url":"URI"}},{"itemtype":"m.video","url":"URI"}]}`,
		"edit":                `{"msgtype":"m.image","body":"x","url":"URI","m.new_content":{"msgtype":"m.image","body":"x","url":"URI"},"m.relates_to":{"rel_type":"m.replace","event_id":"$a"}}`,
		"escaped":             `{"msgtype":"m.image","body":"x","url":"ESCAPED"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, store := newFileWorld(t, e2ee.ModeProxied)
			uri := w.upload(secretFile)
			content := strings.NewReplacer("URI", uri, "ESCAPED", strings.ReplaceAll(uri, "/", `\/`)).Replace(content)
			kind := "m.room.message"
			if name == "sticker" {
				kind = "m.sticker"
			}
			if _, err := w.do(sendCall(encryptedRoom, kind, content)); err != nil {
				t.Fatal(err)
			}
			sent := w.dev.outgoing[0]
			if strings.Count(sent, `"hashes"`) != strings.Count(content, "url\"") || strings.Contains(sent, "thumbnail_url") || store.count() != 1 {
				t.Errorf("%s\nbecame %s", content, sent)
			}
		})
	}
}

// A file that is named in clear is copied in clear first, once, and the copy is named; nothing is
// before somebody asks for it.
func TestFilesNamedInClearAreCopied(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	uri := w.upload(secretFile)
	body := func(form string) string { return strings.ReplaceAll(form, "URI", uri) }
	for name, c := range map[string]call{
		"a plain room":   sendCall(plainRoom, "m.room.message", body(`{"msgtype":"m.image","body":"x","url":"URI"}`)),
		"the room's":     stateCall(encryptedRoom, "m.room.avatar", "", body(`{"url":"URI"}`)),
		"a member's":     stateCall(encryptedRoom, "m.room.member", string(alice), body(`{"membership":"join","avatar_url":"URI"}`)),
		"a new room":     {handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: body(`{"initial_state":[{"type":"m.room.avatar","content":{"url":"URI"}}]}`)},
		"a profile":      {handler: PutProfile, method: http.MethodPut, pattern: "/profile/{userId}/{keyName}", params: map[string]string{"userId": string(alice), "keyName": "avatar_url"}, body: body(`{"avatar_url":"URI"}`)},
		"account data":   {handler: PutAccountData, method: http.MethodPut, pattern: "/user/{userId}/account_data/{type}", params: map[string]string{"userId": string(alice), "type": "im.ponies.user_emotes"}, body: body(`{"images":{"x":{"url":"URI"}}}`)},
		"formatted body": sendCall(encryptedRoom, "m.room.message", body(`{"msgtype":"m.text","body":"x","format":"org.matrix.custom.html","formatted_body":"<img src=\"URI\">"}`)),
		"a reaction":     sendCall(encryptedRoom, "m.reaction", body(`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"URI"}}`)),
	} {
		if _, err := w.do(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if store.count() != 2 {
		t.Fatalf("the homeserver has %d files, want the encrypted one and one copy", store.count())
	}
	if got := string(store.at("hs.example/m2")); got != secretFile || store.types[1] != "application/x-of-the-client" || !strings.Contains(store.names[1], "filename=") {
		t.Errorf("the copy is %q, %v, %v", got, store.types, store.names)
	}
	named := 0
	for _, s := range w.up.requests() {
		if strings.Contains(s.body, uri) {
			t.Errorf("%s names the encrypted file: %s", s.path, s.body)
		}
		named += strings.Count(s.body, "mxc://hs.example/m2")
	}
	if !strings.Contains(w.dev.outgoing[0], "mxc://hs.example/m2") || named != 7 {
		t.Errorf("%d requests name the copy; encrypted was %s", named, w.dev.outgoing)
	}
}

// matrix-nio encrypts files by itself when asked: what it uploads is ciphertext already, and its
// message has `file`. Such a file is not wrapped twice: others find the client's ciphertext.
func TestFilesThatTheClientEncryptedAreNotWrappedTwice(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	sealed, own := encryptedFile(t, "mxc://hs.example/x", secretFile)
	uri := w.upload(string(sealed))
	own.URL = uri
	w2 := newFakeDevice(e2ee.ModeProxied)
	w2.files.known = map[string]attachment.File{"mxc://a/b": own}
	file, _, err := attachment.Hide([]byte(`{"url":"mxc://a/b"}`), w2.files.known, nil)
	if err != nil {
		t.Fatal(err)
	}
	content := `{"msgtype":"m.image","body":"x",` + string(file[1:])
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", content)); err != nil {
		t.Fatal(err)
	}
	var got struct {
		File struct {
			URL string `json:"url"`
		} `json:"file"`
	}
	if err := json.Unmarshal([]byte(w.dev.outgoing[0]), &got); err != nil {
		t.Fatal(err)
	}
	if at := strings.TrimPrefix(got.File.URL, "mxc://"); got.File.URL == uri || string(store.at(at)) != string(sealed) {
		t.Errorf("others are sent to %s, which has %d bytes: %s", got.File.URL, len(store.at(at)), w.dev.outgoing[0])
	}
	w.wantNoClearText()
}

// A file that is still to be uploaded cannot be named: nobody knows yet what it is.
func TestFilesNamedBeforeTheirUpload(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	if _, err := w.do(call{handler: CreateFile, method: http.MethodPost, version: "v1", pattern: "/_matrix/media/{version}/create"}); err != nil {
		t.Fatal(err)
	}
	image := `{"msgtype":"m.image","body":"x","url":"mxc://hs.example/reserved"}`
	for _, room := range []call{sendCall(encryptedRoom, "m.room.message", image), sendCall(plainRoom, "m.room.message", image)} {
		_, err := w.do(room)
		wantError(t, err, http.StatusConflict, "M_NOT_YET_UPLOADED")
	}
	put := uploadCall(secretFile)
	put.method, put.pattern = http.MethodPut, "/_matrix/media/{version}/upload/{serverName}/{mediaId}"
	put.params = map[string]string{"serverName": "hs.example", "mediaId": "reserved"}
	if _, err := w.do(put); err != nil {
		t.Fatal(err)
	}
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", image)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.dev.outgoing[0], `"file"`) || store.count() != 1 {
		t.Errorf("encrypted was %s", w.dev.outgoing[0])
	}
	w.wantNoClearText()
}

// What cannot be stored is not answered: the client would have a file that nobody can open.
func TestUploadThatCannotBeStored(t *testing.T) {
	t.Parallel()
	w, _ := newFileWorld(t, e2ee.ModeProxied)
	w.dev.files.err = errors.New("the disk is full")
	rec, err := w.do(uploadCall(secretFile))
	if err == nil || rec.Body.Len() > 0 {
		t.Errorf("answered %s, %v", rec.Body, err)
	}
}

// Devices with keys of their own, and tokens without a device, have their files as without the
// proxy.
func TestFilesOfOthersPass(t *testing.T) {
	t.Parallel()
	for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone} {
		w, store := newFileWorld(t, mode)
		w.upload("as it is")
		if string(store.at("hs.example/m1")) != "as it is" || store.types[0] != "application/x-of-the-client" {
			t.Errorf("%v: uploaded %q, %v", mode, store.at("hs.example/m1"), store.types)
		}
		rec, err := w.do(downloadCall("mxc://hs.example/m1"))
		if err != nil || rec.Body.String() != "as it is" {
			t.Errorf("%v: %v, %s", mode, err, rec.Body)
		}
	}
}

// A homeserver that returns something else than what was sent, or a part of it, gets not one
// byte of it to the client.
func TestFileThatDoesNotFitItsHash(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(string, []byte) (int, []byte){
		"a bit":     func(_ string, d []byte) (int, []byte) { d = []byte(string(d)); d[0] ^= 1; return 200, d },
		"cut off":   func(_ string, d []byte) (int, []byte) { return 200, d[:len(d)-1] },
		"more":      func(_ string, d []byte) (int, []byte) { return 200, append([]byte(string(d)), 'x') },
		"nothing":   func(string, []byte) (int, []byte) { return 200, nil },
		"exchanged": func(string, []byte) (int, []byte) { return 200, []byte("another file") },
	} {
		w, store := newFileWorld(t, e2ee.ModeProxied)
		w.knows(t, store, "mxc://remote.example/shown", secretFile, "image/png", "a.png")
		store.serve = serve
		rec, err := w.do(downloadCall("mxc://remote.example/shown"))
		wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
		if rec.Body.Len() > 0 {
			t.Errorf("%s: the client got %q", name, rec.Body)
		}
	}
}

// How a file is shown: what it is was said by its sender, and must not run in a browser; its name
// must not lead out of a folder (attack 44); its tag is ours, and an answer of the homeserver's
// that nothing has changed is not passed on.
func TestHeadersOfFiles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ mimetype, name, wantType, wantDisposition string }{
		{"image/png", "a.png", "image/png", `inline; filename=a.png`},
		{"IMAGE/PNG; x=y", "a b.png", "image/png", `inline; filename="a b.png"`},
		{"text/plain", "x.txt", "text/plain; charset=utf-8", `inline; filename=x.txt`},
		{"text/html", "x.html", "application/octet-stream", `attachment; filename=x.html`},
		{"image/svg+xml", "x.svg", "application/octet-stream", `attachment; filename=x.svg`},
		{"", "../../etc/passwd", "application/octet-stream", `attachment; filename=passwd`},
		{"application/pdf", `C:\x\y.pdf`, "application/pdf", `attachment; filename=y.pdf`},
		{"x\r\nSet-Cookie: a=b", "a\r\nX: y", "application/octet-stream", `attachment; filename="aX: y"`},
		{"image/jpeg", "..", "image/jpeg", "inline"},
		{"image/jpeg", "ä.jpg", "image/jpeg", `inline; filename*=utf-8''%C3%A4.jpg`},
		{"application/zip", "a\u202egpj.zip", "application/zip", `attachment; filename=agpj.zip`},
	} {
		w, store := newFileWorld(t, e2ee.ModeProxied)
		w.knows(t, store, "mxc://remote.example/shown", secretFile, tt.mimetype, tt.name)
		rec, err := w.do(downloadCall("mxc://remote.example/shown"))
		if err != nil || rec.Body.String() != secretFile {
			t.Fatalf("%+v: %v", tt, err)
		}
		h := rec.Header()
		if h.Get("Content-Type") != tt.wantType || h.Get("Content-Disposition") != tt.wantDisposition {
			t.Errorf("%q: %q, %q", tt.name, h.Get("Content-Type"), h.Get("Content-Disposition"))
		}
		if !strings.HasPrefix(h.Get("Content-Security-Policy"), "sandbox;") || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.HasPrefix(h.Get("Cache-Control"), "private") || len(h.Get("ETag")) < 20 || h.Get("Set-Cookie") != "" {
			t.Errorf("%q: %v", tt.name, h)
		}
	}
}

// A client may say in the path what the file is to be called. That name is no way to a folder either.
func TestNamesInThePathOfAFile(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	w.knows(t, store, "mxc://remote.example/shown", secretFile, "image/png", "a.png")
	for said, want := range map[string]string{"mine.png": `inline; filename=mine.png`, "../../mine.png": `inline; filename=mine.png`, "": `inline; filename=a.png`} {
		c := downloadCall("mxc://remote.example/shown")
		c.pattern += "/{fileName}"
		c.params["fileName"] = said
		rec, err := w.do(c)
		if err != nil || rec.Body.String() != secretFile || rec.Header().Get("Content-Disposition") != want {
			t.Errorf("%q: %v, %q", said, err, rec.Header().Get("Content-Disposition"))
		}
	}
}

// Parts of a file, and what a client has already, come from the checked file: real homeservers
// answer neither, and say of every file that it has not changed.
func TestPartsOfFiles(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	w.knows(t, store, "mxc://remote.example/shown", secretFile, "image/png", "a.png")
	w.knows(t, store, "mxc://remote.example/other", secretFile, "image/png", "a.png")
	first, err := w.do(downloadCall("mxc://remote.example/shown"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.do(downloadCall("mxc://remote.example/other"))
	if err != nil || other.Header().Get("ETag") == first.Header().Get("ETag") {
		t.Errorf("two files have the tag %s", other.Header().Get("ETag"))
	}
	etag, n := first.Header().Get("ETag"), len(secretFile)
	for _, tt := range []struct {
		header, value string
		status        int
		want          string
	}{
		{"Range", "bytes=4-8", http.StatusPartialContent, secretFile[4:9]},
		{"Range", "bytes=17-", http.StatusPartialContent, secretFile[17:]},
		{"Range", "bytes=-3", http.StatusPartialContent, secretFile[n-3:]},
		{"Range", "bytes=9999-", http.StatusRequestedRangeNotSatisfiable, ""},
		{"If-None-Match", etag, http.StatusNotModified, ""},
		{"If-None-Match", `"x", W/` + etag, http.StatusNotModified, ""},
		{"If-None-Match", "*", http.StatusNotModified, ""},
		{"If-None-Match", "1", http.StatusOK, secretFile},
	} {
		c := downloadCall("mxc://remote.example/shown")
		c.header = http.Header{tt.header: {tt.value}}
		rec, err := w.do(c)
		if err != nil || rec.Code != tt.status || tt.status < 400 && rec.Body.String() != tt.want {
			t.Errorf("%s: %s: %d %q, %v", tt.header, tt.value, rec.Code, rec.Body, err)
		}
	}
}

// The older endpoints lead to those that need a token. A URI that only the proxy knows is not
// asked of the homeserver, which could tell from it that somebody opens an encrypted file.
func TestOlderEndpointsOfFiles(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	shown := "mxc://remote.example/e2eeproxyAAAA"
	w.knows(t, store, shown, secretFile, "image/png", "a.png")
	store.stored["hs.example/plain"] = []byte("in clear")
	older := func(uri string) call {
		c := downloadCall(uri)
		c.version, c.pattern = "r0", "/_matrix/media/{version}/download/{serverName}/{mediaId}"
		return c
	}
	for uri, want := range map[string]string{shown: secretFile, "mxc://hs.example/plain": "in clear"} {
		if rec, err := w.do(older(uri)); err != nil || rec.Body.String() != want {
			t.Errorf("%s: %v, %q", uri, err, rec.Body)
		}
	}
	for _, path := range store.asked {
		if !strings.HasPrefix(path, "/_matrix/client/v1/media/download/") || strings.Contains(path, "e2eeproxy") {
			t.Errorf("the homeserver was asked for %s", path)
		}
	}
	n := len(store.asked)
	_, err := w.do(older("mxc://remote.example/e2eeproxyBBBB"))
	wantError(t, err, http.StatusNotFound, apierr.CodeNotFound)
	w.who = Identity{}
	_, err = w.do(older(shown))
	wantError(t, err, http.StatusUnauthorized, apierr.CodeMissingToken)
	if len(store.asked) != n {
		t.Errorf("the homeserver was asked for %s", store.asked[n:])
	}
}

// Whoever redacts a message lets its files be forgotten.
func TestRedactedFilesExpire(t *testing.T) {
	t.Parallel()
	w, _ := newFileWorld(t, e2ee.ModeProxied)
	uri := w.upload(secretFile)
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", `{"msgtype":"m.file","body":"x","url":"`+uri+`"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.do(redactCall(encryptedRoom, `{}`)); err != nil {
		t.Fatal(err)
	}
	if len(w.dev.files.sent) != 1 || !strings.Contains(w.dev.files.sent[0], "$event") || len(w.dev.files.redacted) != 1 {
		t.Errorf("sent %v, redacted %v", w.dev.files.sent, w.dev.files.redacted)
	}
}

// A homeserver that gets more than it takes breaks the connection and says nothing (Synapse). The
// client was told that the homeserver cannot be reached, and tried again for ever; it is told
// that the file is too large, if that is so.
func TestUploadThatTheHomeserverBreaksOff(t *testing.T) {
	t.Parallel()
	broken := apierr.Unreachable(errors.New("write: broken pipe"))
	for name, row := range map[string]struct {
		status int
		config string
		want   int
		code   string
	}{
		"too large":            {http.StatusOK, `{"m.upload.size":999}`, http.StatusRequestEntityTooLarge, apierr.CodeTooLarge},
		"as large as it takes": {http.StatusOK, `{"m.upload.size":1000}`, http.StatusBadGateway, apierr.CodeUnknown},
		"no limit":             {http.StatusOK, `{"m.upload.size":null}`, http.StatusBadGateway, apierr.CodeUnknown},
		"a wrong one":          {http.StatusOK, `{"m.upload.size":"1"}`, http.StatusBadGateway, apierr.CodeUnknown},
		"not said":             {http.StatusNotFound, `{"errcode":"M_UNRECOGNIZED"}`, http.StatusBadGateway, apierr.CodeUnknown},
		"really down":          {0, ``, http.StatusBadGateway, apierr.CodeUnknown},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.up.arrived = func(s seen) {
			w.up.broken = nil
			if strings.HasSuffix(s.path, "/upload") || row.status == 0 {
				w.up.broken = broken
			}
		}
		w.up.respond = func(seen) (int, string) { return row.status, row.config }
		rec, err := w.do(uploadCall(strings.Repeat("x", 1000)))
		wantError(t, err, row.want, row.code)
		if rec.Body.Len() > 0 || len(w.dev.files.known) != 0 {
			t.Errorf("%s: answered %s, known %v", name, rec.Body, w.dev.files.known)
		}
		for i, s := range w.up.requests() {
			if i > 0 && (s.method != http.MethodGet || s.body != "" || !strings.HasSuffix(s.path, "/media/config") && !strings.HasSuffix(s.path, "/media/v3/config")) {
				t.Errorf("%s: asked %s %s", name, s.method, s.path)
			}
		}
	}
	w := newWorld(t, e2ee.ModeProxied) // an older homeserver
	w.up.arrived = func(s seen) {
		w.up.broken = nil
		if strings.HasSuffix(s.path, "/upload") {
			w.up.broken = broken
		}
	}
	w.up.respond = func(s seen) (int, string) {
		if strings.HasPrefix(s.path, "/_matrix/media/v3/") {
			return http.StatusOK, `{"m.upload.size":999}`
		}
		return http.StatusNotFound, `{"errcode":"M_UNRECOGNIZED"}`
	}
	_, err := w.do(uploadCall(strings.Repeat("x", 1000)))
	wantError(t, err, http.StatusRequestEntityTooLarge, apierr.CodeTooLarge)
}

// An upload that is cut off half-way, or is too large, leaves nothing: no key is kept, and no half
// file has a name.
func TestUploadCutOffHalfWay(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	c := uploadCall(strings.Repeat("x", 1000))
	c.maxBody = 100
	if rec, err := w.do(c); err == nil || rec.Body.Len() > 0 {
		t.Errorf("answered %s, %v", rec.Body, err)
	}
	if len(w.dev.files.known) != 0 || store.count() != 0 {
		t.Errorf("known are %v; the homeserver has %d files", w.dev.files.known, store.count())
	}
}
