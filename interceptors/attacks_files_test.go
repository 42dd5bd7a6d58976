package interceptors

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
)

// Attack vector: the homeserver knows where each file lies that an account uploaded, and so does
// everybody in the room that it was sent to. It has somebody say that URI: in a plain room to a
// bot that repeats what it hears, in HTML that a client quotes in a reply, as a reaction that
// a person clicks on to agree. What the client sends then names the file in clear.
//
// Expected: a file that was sent to an encrypted room is not copied in clear for what stands in
// a text. What refers to a file by its URL, because its owner sends it on, is.
func TestNamingASentFileInATextDoesNotCopyIt(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	uri := w.upload(secretFile)
	body := func(form string) string { return strings.ReplaceAll(form, "URI", uri) }
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", body(`{"msgtype":"m.file","body":"x","url":"URI"}`))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]call{
		"repeated":          sendCall(plainRoom, "m.room.message", body(`{"msgtype":"m.text","body":"URI"}`)),
		"repeated in words": sendCall(plainRoom, "m.room.message", body(`{"msgtype":"m.text","body":"you said URI","url":"see URI"}`)),
		"quoted":            sendCall(plainRoom, "m.room.message", body(`{"msgtype":"m.text","body":"x","formatted_body":"<mx-reply><img src=\"URI\"></mx-reply>"}`)),
		"quoted, encrypted": sendCall(encryptedRoom, "m.room.message", body(`{"msgtype":"m.text","body":"x","formatted_body":"<mx-reply><img src=\"URI\"></mx-reply>"}`)),
		"agreed with":       sendCall(encryptedRoom, "m.reaction", body(`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"URI"}}`)),
		"another's key":     sendCall(encryptedRoom, "m.room.message", `{"msgtype":"m.file","body":"x","file":{"v":"v2","url":"`+uri+`","key":{"kty":"oct","alg":"A256CTR","k":"`+strings.Repeat("A", 43)+`"},"iv":"`+strings.Repeat("A", 22)+`","hashes":{"sha256":"`+strings.Repeat("A", 43)+`"}}}`),
	} {
		if _, err := w.do(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	w.wantNoClearText()
	if n := store.count(); n != 1 {
		t.Fatalf("the homeserver has %d files, want the encrypted one", n)
	}
	if _, err := w.do(sendCall(plainRoom, "m.room.message", body(`{"msgtype":"m.file","body":"x","url":"URI"}`))); err != nil {
		t.Fatal(err)
	}
	if string(store.at("hs.example/m2")) != secretFile {
		t.Error("what its owner sends on is not copied")
	}
}

// Attack vector: a client without encryption uploads the file of a message for an encrypted room
// while the proxy cannot encrypt for it: its keys are lost, or nobody knows yet whose they are.
// The message is refused, but the homeserver has the file in clear by then.
//
// Expected: the upload is refused too.
func TestUploadsOfDevicesThatCannotEncrypt(t *testing.T) {
	t.Parallel()
	for mode, want := range map[e2ee.Mode]string{e2ee.ModeLost: apierr.CodeKeysLost, e2ee.ModeUnknown: apierr.CodeCannotEncrypt, e2ee.Mode(99): apierr.CodeCannotEncrypt} {
		w, store := newFileWorld(t, mode)
		for _, c := range []call{
			uploadCall(secretFile),
			{handler: CreateFile, method: http.MethodPost, version: "v1", pattern: "/_matrix/media/{version}/create"},
		} {
			_, err := w.do(c)
			if e, ok := errors.AsType[*apierr.Error](err); !ok || e.ErrCode != want {
				t.Errorf("%v: %s: %v, want %s", mode, c.handler, err, want)
			}
		}
		w.wantNoClearText()
		if len(w.up.requests()) > 0 || store.count() > 0 {
			t.Errorf("%v: the homeserver was asked: %v", mode, w.up.requests())
		}
	}
}

// Attack vector: a client writes the URI by which it was shown a file into a text for everybody.
// It may be a link (media.links), with which the homeserver would have the file from the proxy.
//
// Expected: a URI that was made here leaves in no text that is in clear; it names a copy there.
func TestURIsMadeHereDoNotLeave(t *testing.T) {
	t.Parallel()
	w, store := newFileWorld(t, e2ee.ModeProxied)
	shown := attachment.MadeUpURI("remote.example", []byte("nobody can guess this"))
	w.knows(t, store, shown, "for everybody by now", "image/png", "x.png")
	w.dev.files.used = append(w.dev.files.used, shown)
	for name, c := range map[string]call{
		"a body":     sendCall(plainRoom, "m.room.message", `{"msgtype":"m.text","body":"see `+shown+`"}`),
		"HTML":       sendCall(plainRoom, "m.room.message", `{"msgtype":"m.text","body":"x","formatted_body":"<img src=\"`+shown+`\">"}`),
		"a reaction": sendCall(encryptedRoom, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$a","key":"`+shown+`"}}`),
	} {
		if _, err := w.do(c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, s := range w.up.requests() {
		if strings.Contains(s.body, shown) {
			t.Errorf("%s names what was made here: %s", s.path, s.body)
		}
	}
}
