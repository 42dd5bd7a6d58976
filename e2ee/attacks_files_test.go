package e2ee_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/internal/liar"
)

// withFile is the content of a message that shows a file as its sender's client encrypted it.
func withFile(t *testing.T, f attachment.File, name string) json.RawMessage {
	t.Helper()
	hidden, _, err := attachment.Hide(json.RawMessage(`{"msgtype":"m.image","body":"`+name+`","url":"mxc://made/up","info":{"mimetype":"image/png"}}`),
		map[string]attachment.File{"mxc://made/up": f}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return hidden
}

// fileOf encrypts a file, whose ciphertext it returns too.
func fileOf(t *testing.T, uri, clear string) (attachment.File, []byte) {
	t.Helper()
	up, err := attachment.NewUpload(strings.NewReader(clear))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := io.ReadAll(up)
	if err != nil {
		t.Fatal(err)
	}
	f, err := up.File(uri)
	if err != nil {
		t.Fatal(err)
	}
	return f, sealed
}

// sendContent encrypts and sends a message.
func (p *person) sendFileEvent(room, txn string, content json.RawMessage) string {
	p.t.Helper()
	out := e2ee.Outgoing{RoomID: id.RoomID(room), Type: "m.room.message", TxnID: txn, Content: content}
	enc, err := p.dev.Encrypt(p.t.Context(), out)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: p.UserID, Content: enc.Content})
}

// urls returns the URIs that a person is shown in a room's messages, by their texts.
func (p *person) urls(room string) map[string]string {
	p.t.Helper()
	var in []e2ee.Incoming
	for _, raw := range p.encrypted(room) {
		in = append(in, e2ee.Incoming{RoomID: id.RoomID(room), Event: raw})
	}
	opened, err := p.dev.Open(p.t.Context(), in)
	if err != nil {
		p.t.Fatal(err)
	}
	out := make(map[string]string)
	for _, o := range opened {
		var e struct {
			Content struct {
				Body string          `json:"body"`
				URL  string          `json:"url"`
				File json.RawMessage `json:"file"`
			} `json:"content"`
		}
		if err := json.Unmarshal(o.Event, &e); err != nil {
			p.t.Fatal(err)
		}
		if e.Content.File != nil {
			p.t.Errorf("shown with the file's key: %s", o.Event)
		}
		out[e.Content.Body] = e.Content.URL
	}
	return out
}

// awaitURL waits until a person is shown a message with a URI, whose key may come after it.
func (p *person) awaitURL(room, text string) (uri string) {
	p.t.Helper()
	await(p.t, p.UserID+" is not shown "+text, func() bool {
		uri = p.urls(room)[text]
		return uri != ""
	})
	return uri
}

func (p *person) file(uri string) (attachment.File, bool) {
	p.t.Helper()
	known, err := p.dev.Files().Lookup(p.t.Context(), []string{uri})
	if err != nil {
		p.t.Fatal(err)
	}
	f, ok := known[uri]
	return f, ok
}

// Attack vector (matrix-spec#2324): the hash of an encrypted file covers the ciphertext alone.
// Somebody sends the same ciphertext under two keys: one text to those who look first, or to
// one account, and another later; or names a picture that is in clear, so that the proxy
// decrypts it into something else for all who have seen it.
//
// Expected: each event has a URI of its own for its own meaning, and what a URI means never
// changes. The real URI of the ciphertext is left to the homeserver.
func TestOneFileWithTwoMeanings(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	alice, bob := newPerson(t, st.hs, "carol", "C"), newPerson(t, st.hs, "dave", "D")
	room := alice.newRoom(bob)
	first, sealed := fileOf(t, "mxc://liar.test/picture", "what Alice is to see")
	second := first
	second.Key.Secret[0] ^= 1 // decrypts the same ciphertext to something else
	alice.sendFileEvent(room, "1", withFile(t, first, "first"))
	alice.sendFileEvent(room, "2", withFile(t, second, "second"))
	alice.sendFileEvent(room, "3", withFile(t, first, "first"))

	var seen map[string]string
	await(t, "bob is not shown both", func() bool { // a key may come after its message
		seen = bob.urls(room)
		return seen["first"] != "" && seen["second"] != ""
	})
	if len(seen) != 2 || seen["first"] == seen["second"] || seen["first"] == first.URL || seen["second"] == first.URL {
		t.Fatalf("shown as %v", seen)
	}
	for name, want := range map[string]attachment.File{"first": first, "second": second} {
		got, ok := bob.file(seen[name])
		if !ok || got.Key != want.Key || got.URL != want.URL || got.Type != "image/png" || got.Name != name {
			t.Errorf("%s: %v, %s %s %s", name, ok, got.URL, got.Type, got.Name)
		}
	}
	if f, ok := bob.file(first.URL); ok {
		t.Errorf("the ciphertext's own URI means %s", f.URL)
	}
	f, _ := bob.file(seen["first"])
	if clear, err := io.ReadAll(f.Clear(bytes.NewReader(sealed), int64(len(sealed)))); err != nil || string(clear) != "what Alice is to see" {
		t.Errorf("%q, %v", clear, err)
	}
	// The same after a restart, and for another account other URIs, which Bob knows nothing of.
	bob.restart()
	if again := bob.urls(room); again["first"] != seen["first"] || again["second"] != seen["second"] {
		t.Errorf("after a restart: %v, before: %v", again, seen)
	}
	theirs := alice.urls(room)
	if theirs["first"] == seen["first"] {
		t.Error("two accounts are shown the same URI")
	}
	if _, ok := bob.file(theirs["first"]); ok {
		t.Error("Bob's account knows what another was shown")
	}
}

// Attack vector: the database of the proxy is read by somebody: no key of a file, no name and no
// place of one stands in it.
func TestKeysOfFilesAreSealed(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	alice, bob := newPerson(t, st.hs, "carol", "C"), newPerson(t, st.hs, "dave", "D")
	room := alice.newRoom(bob)
	f, _ := fileOf(t, "mxc://liar.test/CANARYPLACE", "x")
	alice.sendFileEvent(room, "1", withFile(t, f, "CANARYNAME"))
	bob.awaitURL(room, "CANARYNAME")
	dir := filepath.Dir(bob.rig.path)
	for _, secret := range []string{string(f.Key.Secret[:]), "CANARY", base64.StdEncoding.EncodeToString(f.Key.Secret[:30])} {
		wantNotInFiles(t, dir, secret)
	}
}

// What an account has uploaded itself is shown to it by the URI that it was given, and forgotten
// a day later if nothing names it.
func TestOwnFilesKeepTheirURI(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	alice, bob := newPerson(t, st.hs, "carol", "C"), newPerson(t, st.hs, "dave", "D")
	room := alice.newRoom(bob)
	f, _ := fileOf(t, "mxc://liar.test/mine", "x")
	unused, _ := fileOf(t, "mxc://liar.test/unused", "y")
	for _, add := range []attachment.File{f, unused} {
		if err := alice.dev.Files().Add(t.Context(), add); err != nil {
			t.Fatal(err)
		}
	}
	if err := alice.dev.Files().Use(t.Context(), []string{f.URL}); err != nil {
		t.Fatal(err)
	}
	event := alice.sendFileEvent(room, "1", withFile(t, f, "mine"))
	if err := alice.dev.Files().Sent(t.Context(), []string{f.URL}, id.EventID(event)); err != nil {
		t.Fatal(err)
	}
	if seen := alice.urls(room); seen["mine"] != f.URL {
		t.Errorf("shown as %v, want %s", seen, f.URL)
	}
	if seen := bob.awaitURL(room, "mine"); seen == f.URL {
		t.Errorf("Bob is shown %s", seen)
	}

	// Once it was forgotten, a message that still shows it has a URI of its own.
	if err := alice.dev.Files().Redacted(t.Context(), id.EventID(event)); err != nil {
		t.Fatal(err)
	}
	alice.urls(room)
	if _, err := alice.rig.db.PruneFiles(t.Context(), alice.rig.now().Add(2*time.Hour), 100); err != nil {
		t.Fatal(err)
	}
	seen := alice.urls(room)
	if known, err := alice.dev.Files().Lookup(t.Context(), []string{seen["mine"]}); err != nil || seen["mine"] == f.URL || known[seen["mine"]].Key != f.Key {
		t.Errorf("shown as %v, which is known as %+v: %v", seen, known, err)
	}
}

// Attack vector: the homeserver says where a file that is uploaded lies. It gives a secret file
// the place of one that was named in clear before, or will be: who names that one again, as with
// an avatar, has the secret one copied in clear. Or it has a file that was sent mean another.
//
// Expected: a place that means a file never means another one, and the upload fails.
func TestPlaceOfAnotherFile(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	alice := newPerson(t, st.hs, "carol", "C")
	files := alice.dev.Files()
	first, _ := fileOf(t, "mxc://liar.test/avatar", "for everybody")
	second, _ := fileOf(t, first.URL, "secret")
	if err := files.Add(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	reserved := attachment.File{URL: first.URL, Reserved: true}
	for name, f := range map[string]attachment.File{"uploaded": second, "reserved": reserved} {
		if err := files.Add(t.Context(), f); !errors.Is(err, attachment.ErrNamedTwice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f, ok := alice.file(first.URL); !ok || f.Key != first.Key {
		t.Error("the place means another file now")
	}
	// What a place was reserved for may come, once.
	third, _ := fileOf(t, "mxc://liar.test/reserved", "x")
	if err := files.Add(t.Context(), attachment.File{URL: third.URL, Reserved: true}); err != nil {
		t.Fatal(err)
	}
	if err := files.Add(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	if err := files.Add(t.Context(), attachment.File{URL: third.URL, Key: second.Key}); !errors.Is(err, attachment.ErrNamedTwice) {
		t.Errorf("uploaded twice: %v", err)
	}
	if f, ok := alice.file(third.URL); !ok || f.Key != third.Key {
		t.Error("what was uploaded first is lost")
	}
}
