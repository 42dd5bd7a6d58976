package e2ee_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// withLinks is a person whose clients are shown links while on is set.
func withLinks(t *testing.T, hs *liar.Server, name, device string, on *atomic.Bool) *person {
	t.Helper()
	p := &person{t: t, hs: hs, Session: hs.Login(name, device), rig: newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{MediaLinks: on.Load()} }
	})}
	p.dev = p.rig.device(p.Session)
	ready(t, p.dev)
	return p
}

func (p *person) linked(uri string) (e2ee.LinkHolder, bool) {
	p.t.Helper()
	of, found, err := p.rig.eng.Linked(p.t.Context(), uri)
	if err != nil {
		p.t.Fatal(err)
	}
	return of, found
}

// Attack vector: with media.links whoever has a link has the file. Somebody guesses one, makes
// one of what they have seen, puts another server, another file or a later end into one, keeps
// one for long or after its session has ended, or uses one where links are off.
//
// Expected: a link is worth something as it was made, for two days at most, while the device
// that was shown it is logged in and links are on; and nothing else is worth anything.
func TestLinksToFilesCannotBeForged(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	var on atomic.Bool
	alice, bob := newPerson(t, st.hs, "carol", "C"), withLinks(t, st.hs, "dave", "D", &on)
	room := alice.newRoom(bob)
	f, _ := fileOf(t, "mxc://liar.test/picture", "x")
	alice.sendFileEvent(room, "1", withFile(t, f, "one"))
	plain := bob.awaitURL(room, "one")
	on.Store(true)
	link := bob.urls(room)["one"]
	if link == plain || link == f.URL || strings.Contains(link, "picture") {
		t.Fatalf("shown as %s, without links as %s", link, plain)
	}
	if again := bob.urls(room)["one"]; again != link {
		t.Errorf("shown as %s, and then as %s", link, again)
	}
	of, found := bob.linked(link)
	if !found || of.UserID != id.UserID(bob.UserID) || of.DeviceID != id.DeviceID(bob.DeviceID) || of.Token.Reveal() != bob.Token || of.Device.Mode() != e2ee.ModeProxied {
		t.Fatalf("the link itself: %v, %+v", found, of)
	}
	if got, ok := bob.file(link); !ok || got.Key != f.Key {
		t.Error("the account does not know the file by its link")
	}
	if _, ok := alice.file(link); ok {
		t.Error("another account knows it by the link")
	}

	name := strings.TrimPrefix(link, "mxc://liar.test/e2eeproxy")
	raw, err := base64.RawURLEncoding.DecodeString(name)
	if err != nil {
		t.Fatal(err)
	}
	at := func(server string, raw []byte) string {
		return "mxc://" + server + "/e2eeproxy" + base64.RawURLEncoding.EncodeToString(raw)
	}
	if at("liar.test", raw) != link {
		t.Fatalf("%s is read as something else", link)
	}
	forged := map[string]string{
		"the plain one": plain, "the file's own": f.URL, "another server": at("evil.test", raw), "nothing": at("liar.test", nil),
		"no hash": at("liar.test", raw[:len(raw)-24]), "cut off": at("liar.test", raw[:len(raw)-1]), "only a hash": at("liar.test", raw[len(raw)-24:]),
		"more": at("liar.test", append([]byte(string(raw)), 0)), "zeros": at("liar.test", make([]byte, len(raw))),
	}
	for i := range raw { // who, until when, what, and the hash
		changed := []byte(string(raw))
		changed[i] ^= 2
		if _, found := bob.linked(at("liar.test", changed)); found {
			t.Errorf("byte %d of %d can be changed", i, len(raw))
		}
	}
	for what, uri := range forged {
		if _, found := bob.linked(uri); found {
			t.Errorf("%s is taken: %s", what, uri)
		}
	}
	if _, found := newPerson(t, st.hs, "erin", "E").linked(link); found {
		t.Error("another proxy takes it")
	}

	bob.restart()
	if _, found := bob.linked(link); !found {
		t.Error("it is worth nothing after a restart")
	}
	on.Store(false)
	if _, found := bob.linked(link); found {
		t.Error("it is taken where links are off")
	}
	on.Store(true)
	bob.rig.mu.Lock()
	bob.rig.ahead = 48 * time.Hour
	bob.rig.mu.Unlock()
	if _, found := bob.linked(link); found {
		t.Error("it is taken two days later")
	}
	if _, ok := bob.file(link); !ok {
		t.Error("with the account's token it is not known any more")
	}
	fresh := bob.urls(room)["one"]
	if _, found := bob.linked(fresh); !found || fresh == link {
		t.Errorf("two days later it is shown as %s: %v", fresh, found)
	}
	call(t, bob.hs, bob.Session, http.MethodPost, "logout", map[string]any{}, nil)
	if err := bob.rig.eng.Forget(t.Context(), id.UserID(bob.UserID), id.DeviceID(bob.DeviceID)); err != nil {
		t.Fatal(err)
	}
	if _, found := bob.linked(fresh); found {
		t.Error("it is taken after the logout")
	}
	bob.Session = bob.hs.Login("dave", "D") // the same device ID again
	bob.dev = bob.rig.device(bob.Session)
	if _, found := bob.linked(fresh); found {
		t.Error("it is taken by the next session with the same device ID")
	}
}

// The account's own uploads are shown by links too, and a client that names a link in a message
// names the file.
func TestLinksToOwnFiles(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	var on atomic.Bool
	on.Store(true)
	alice, bob := newPerson(t, st.hs, "carol", "C"), withLinks(t, st.hs, "dave", "D", &on)
	room := bob.newRoom(alice)
	f, _ := fileOf(t, "mxc://liar.test/mine", "x")
	if err := bob.dev.Files().Add(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	bob.sendFileEvent(room, "1", withFile(t, f, "mine"))
	link := bob.urls(room)["mine"]
	of, found := bob.linked(link)
	if !found || link == f.URL || of.UserID != id.UserID(bob.UserID) {
		t.Fatalf("shown as %s: %v", link, found)
	}
	if err := bob.dev.Files().Use(t.Context(), []string{link}); err != nil {
		t.Fatal(err)
	}
	f.Copy = "mxc://liar.test/copy"
	if err := bob.dev.Files().Changed(t.Context(), link, f); err != nil {
		t.Fatal(err)
	}
	if got, ok := bob.file(f.URL); !ok || got.Copy != f.Copy {
		t.Error("what was found out about the file by its link is not known of the file")
	}
}
