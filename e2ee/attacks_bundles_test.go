package e2ee_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// Attack A23. Alice is invited to a room, and is sent a bundle by somebody who may not share its
// history with her, or one that is not what it should be. Nothing is taken of it, whatever the
// policy says; bob's own is, afterwards. What comes from the wrong sender is not even
// downloaded.
func TestBundlesThatAreNotTaken(t *testing.T) {
	t.Parallel()
	good := func(p *past) map[string]any { return p.bob.stored(p.room, bundleOf([]any{p.key}, nil)) }
	for name, attack := range map[string]struct {
		run       func(t *testing.T, st *stage, p *past)
		downloads int
	}{
		"from an unsigned device of the inviter": {run: func(t *testing.T, st *stage, p *past) {
			odd := newPuppet(t, st.hs, "bob", "ODD")
			odd.give(st.target(), odd.stored(p.room, bundleOf([]any{p.key}, nil)))
		}},
		"from one that shows another's signed keys": {run: func(t *testing.T, st *stage, p *past) {
			odd := newPuppet(t, st.hs, "bob", "ODD")
			plain := odd.envelope(st.target(), "m.room_key_bundle", good(p))
			plain["sender_device_keys"] = p.of.signed(p.bob.deviceKeys(), p.of.self)
			odd.sendOlm(st.target(), plain)
		}},
		"without the sender's device keys": {run: func(_ *testing.T, st *stage, p *past) {
			plain := p.bob.envelope(st.target(), "m.room_key_bundle", good(p))
			delete(plain, "sender_device_keys")
			p.bob.sendOlm(st.target(), plain)
		}},
		"from a member who did not invite": {run: func(t *testing.T, st *stage, p *past) {
			mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
			call(t, st.hs, mallory.Session, http.MethodPost, "rooms/"+p.room+"/join", map[string]any{}, nil)
			mallory.give(st.target(), mallory.stored(p.room, bundleOf([]any{p.key}, nil)))
		}},
		"in clear": {run: func(_ *testing.T, st *stage, p *past) {
			for _, eventType := range []string{"m.room_key_bundle", "io.element.msc4268.room_key_bundle"} {
				st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, p.bob.UserID, eventType, good(p))
			}
		}},
		"for another room": {run: func(_ *testing.T, st *stage, p *past) {
			content := good(p)
			content["room_id"] = "!another:liar.test"
			p.bob.give(st.target(), content)
		}},
		"from an inviter whose identity changed": {run: func(t *testing.T, st *stage, p *past) {
			if _, err := st.dev.User(t.Context(), id.UserID(p.bob.UserID)); err != nil {
				t.Fatal(err)
			}
			again := newIdentity(t, st.hs, p.bob.Session)
			again.confirm(p.bob)
			p.bob.give(st.target(), good(p))
			st.told()
			st.join(p.room)
			if n, _ := st.kept(p.said.ID().String()); n > 0 {
				t.Error("it is taken")
			}
			if err := st.dev.Acknowledge(t.Context(), id.UserID(p.bob.UserID), id.Ed25519(publicKey(again.master))); err != nil {
				t.Fatal(err)
			}
		}},
		"of which another hash is told": {downloads: 1, run: func(_ *testing.T, st *stage, p *past) {
			content := good(p)
			file, _ := content["file"].(map[string]any)
			file["hashes"] = map[string]any{"sha256": strings.Repeat("A", 43)}
			p.bob.give(st.target(), content)
		}},
		"of which the hash is wrong": {downloads: 1, run: func(_ *testing.T, st *stage, p *past) {
			content := good(p)
			st.hs.PutFile("liar.test/bundle-of-BOB", bytes.Repeat([]byte("x"), 100))
			p.bob.give(st.target(), content)
		}},
		"that is too large": {downloads: 1, run: func(_ *testing.T, st *stage, p *past) {
			p.bob.give(st.target(), p.bob.stored(p.room, append([]byte(`{"room_keys":[],"x":"`), bytes.Repeat([]byte("x"), 33<<20)...)))
		}},
		"that is no JSON": {downloads: 1, run: func(_ *testing.T, st *stage, p *past) {
			p.bob.give(st.target(), p.bob.stored(p.room, []byte(`["room_keys"]`)))
		}},
		"that lies in another place": {run: func(_ *testing.T, st *stage, p *past) {
			for _, url := range []string{"", "https://liar.test/x", "mxc://liar.test", "mxc://../sync", "mxc://liar.test/a/b", "mxc://liar.test/../x", "mxc://liar.test/x?y", "mxc://li ar/x"} {
				content := good(p)
				file, _ := content["file"].(map[string]any)
				file["url"] = url
				p.bob.give(st.target(), content)
			}
		}},
		"that is encrypted in another way": {run: func(_ *testing.T, st *stage, p *past) {
			for name, value := range map[string]any{"v": "v1", "iv": "AAAA", "key": map[string]any{"alg": "none"}, "hashes": map[string]any{}} {
				content := good(p)
				file, _ := content["file"].(map[string]any)
				file[name] = value
				p.bob.give(st.target(), content)
			}
		}},
	} {
		for _, mode := range []trustcache.Mode{trustcache.ModeEnforce, trustcache.ModeOff} {
			t.Run(fmt.Sprint(name, ", policy ", mode), func(t *testing.T) {
				t.Parallel()
				st := newStage(t, func(o *e2ee.Options) {
					o.Policy = func() trustcache.Policy { return trustcache.Policy{Receive: mode} }
				})
				p := newPast(t, st)
				p.invited()
				attack.run(t, st, p)
				st.told()
				st.join(p.room)
				st.dev.Maintain(t.Context())
				if n, _ := st.kept(p.said.ID().String()); n > 0 {
					t.Error("it is taken")
				}
				if n := st.downloads(); n != attack.downloads {
					t.Errorf("%d downloads, want %d", n, attack.downloads)
				}
				for _, r := range st.hs.Requests(liar.Is(http.MethodGet, "/media/")) {
					if r.Path != "/_matrix/client/v1/media/download/liar.test/bundle-of-BOB" {
						t.Errorf("a request to %s", r.Path)
					}
				}
				p.bob.give(st.target(), good(p))
				st.wantShared(p.event, p.text, p.bob.UserID)
				for _, ev := range st.heard {
					if strings.Contains(ev.Type, "room_key_bundle") {
						t.Errorf("the client is shown %+v", ev)
					}
				}
			})
		}
	}
}

// Attack A23. The inviter's bundle has keys of other rooms, keys under another's name, a key of
// alice's own device, and keys that she has better. Only what is of this room, and is what it
// says, is taken, and it says who shared it; what bob himself sent of a session, and what is
// alice's own, stays as it was.
func TestWhatIsTakenOfABundle(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	p := newPast(t, st)
	elsewhere := st.hs.CreateRoom(true, st.alice.UserID, p.bob.UserID)
	other := p.bob.newMegolm(elsewhere)
	named, owns, better, forged := p.bob.newMegolm(p.room), p.bob.newMegolm(p.room), p.bob.newMegolm(p.room), p.bob.newMegolm(p.room)
	forged.SigningKey = better.SigningKey // the same session by name
	change := func(entry map[string]any, more map[string]any) map[string]any {
		maps.Copy(entry, more)
		return entry
	}
	entries := []any{
		p.key, "no object", map[string]any{}, other.historic(),
		change(other.historic(), map[string]any{"room_id": p.room, "session_id": named.ID()}),
		change(named.historic(), map[string]any{"algorithm": "m.megolm.v9"}),
		change(owns.historic(), map[string]any{"sender_key": st.target().curve25519, "sender_claimed_keys": map[string]any{"ed25519": st.target().ed25519}}),
		forged.historic(),
	}
	owned := owns.say("they say alice said this")
	better.share(st.target()) // from bob himself
	first := better.say("bob said this")
	st.told()
	p.bob.give(st.target(), p.bob.stored(p.room, bundleOf(entries, nil)))
	st.told()
	p.invited()
	st.join(p.room)
	st.wantShared(p.event, p.text, p.bob.UserID)
	st.wantShared(owned, "they say alice said this", p.bob.UserID)
	st.awaitText(first, "bob said this")
	if trust := trustOf(st.shown[first]); trust["color"] != "none" || trust["source"] != "direct" || trust["shared_by"] != nil {
		t.Errorf("what bob sent himself is shown with %v", trust)
	}
	for _, m := range []*megolm{other, named} {
		if n, _ := st.kept(m.ID().String()); n > 0 {
			t.Errorf("a key of another room, or under another's name, is taken")
		}
	}
	st.awaitText(better.say("and this"), "and this") // the ratchet is still the right one
}

// A key comes in a bundle first and from its maker afterwards: then its maker is who it is from,
// and messages of others with it are held back. The bundle lends nobody's name to it, nor does
// a second bundle take it back. An earlier part that leads to what is here is taken.
func TestBundleLendsNoOwner(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	p := newPast(t, st)
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	said := mallory.newMegolm(p.room)
	whole := said.historic()
	early := said.say("early")
	whole["sender_key"], whole["sender_claimed_keys"] = p.bob.curve25519, map[string]any{"ed25519": p.bob.ed25519}
	late := said.historic()
	late["sender_key"], late["sender_claimed_keys"] = whole["sender_key"], whole["sender_claimed_keys"]
	p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key, late}, nil)))
	st.told()
	p.invited()
	st.join(p.room)
	event := st.hs.Inject(p.room, liar.Event{Type: "m.room.encrypted", Sender: p.bob.UserID, Content: said.seal(said.text("bob's, they say"))})
	st.wantShared(event, "bob's, they say", p.bob.UserID)
	said.share(st.target())
	again := st.hs.Inject(p.room, liar.Event{Type: "m.room.encrypted", Sender: p.bob.UserID, Content: said.seal(said.text("bob's, they say again"))})
	if code := st.wantHidden(again, "bob's, they say again"); code != "MismatchedSender" {
		t.Error(code)
	}
	call(t, st.hs, st.alice, http.MethodPost, "rooms/"+p.room+"/leave", map[string]any{}, nil)
	st.told()
	p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{whole}, nil)))
	p.invited()
	st.join(p.room)
	if n, first := st.kept(said.ID().String()); n != 1 || first != 0 {
		t.Errorf("%d keys, from index %d", n, first)
	}
	event = said.say("mallory's own")
	st.awaitText(event, "mallory's own")
	if trust := trustOf(st.shown[event]); trust["color"] != "none" || trust["source"] != "direct" || trust["shared_by"] != nil {
		t.Errorf("it is shown with %v", trust)
	}
	st.awaitText(early, "early")
}

// A bundle is sent again and again: it is taken once, and downloaded only where an invitation of
// its sender's was accepted. Floods of them are bounded, and one sender's do not push out
// another's (attack N5).
func TestBundlesAgainAndAgain(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	p := newPast(t, st)
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	content := p.bob.stored(p.room, bundleOf([]any{p.key}, nil))
	p.bob.give(st.target(), content)
	st.told()
	for i := range 40 {
		flood := maps.Clone(content)
		flood["room_id"] = fmt.Sprintf("!room%d:liar.test", i)
		mallory.give(st.target(), flood)
	}
	st.told()
	p.invited()
	st.join(p.room)
	st.wantShared(p.event, p.text, p.bob.UserID)
	for range 5 {
		p.bob.give(st.target(), content)
		st.told()
		st.dev.Maintain(t.Context())
	}
	if n := st.downloads(); n != 1 {
		t.Errorf("%d downloads", n)
	}
	if size, err := st.dev.WaitingHistory(t.Context()); err != nil || size > 16 {
		t.Errorf("%d bundles wait, %v", size, err)
	}
}
