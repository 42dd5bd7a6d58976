package e2ee_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// past is a room that alice is not in yet, and something that was said there.
type past struct {
	st   *stage
	bob  *puppet
	of   *identity // bob's
	room string
	said *megolm
	key  map[string]any // of said, as it stands in a bundle
	text string
	// event is the encrypted text.
	event string
}

func newPast(t *testing.T, st *stage) *past {
	t.Helper()
	p := &past{st: st, text: "before alice came"}
	p.bob, p.of = confirmedPuppet(t, st.hs, "bob", "BOB")
	p.room = st.hs.CreateRoom(true, p.bob.UserID)
	p.said = p.bob.newMegolm(p.room)
	p.key = p.said.historic()
	p.event = p.said.say(p.text)
	return p
}

// historic returns a session as it stands in a bundle, from its current index on.
func (m *megolm) historic() map[string]any {
	whole := m.forward()
	return map[string]any{
		"algorithm": megolmAlgorithm, "room_id": m.room, "session_id": m.ID(), "session_key": whole["session_key"],
		"sender_key": m.p.curve25519, "sender_claimed_keys": map[string]any{"ed25519": m.p.ed25519},
	}
}

// notShared returns the entry of a session that is not in a bundle.
func (m *megolm) notShared(code string) map[string]any {
	return map[string]any{
		"algorithm": megolmAlgorithm, "room_id": m.room, "session_id": m.ID(), "sender_key": m.p.curve25519,
		"code": code, "reason": "History not shared",
	}
}

func bundleOf(keys, notes []any) map[string]any {
	return map[string]any{"room_keys": keys, "withheld": notes}
}

// stored puts a bundle into the media repository and returns the content that says where it is.
func (p *puppet) stored(room string, bundle any) map[string]any {
	p.t.Helper()
	raw, isBytes := bundle.([]byte)
	if !isBytes {
		var err error
		if raw, err = json.Marshal(bundle); err != nil {
			p.t.Fatal(err)
		}
	}
	sealed := attachment.NewEncryptedFile()
	sealed.EncryptInPlace(raw)
	name := "liar.test/bundle-of-" + p.DeviceID
	p.hs.PutFile(name, raw)
	file := map[string]any{"url": "mxc://" + name}
	encoded, err := json.Marshal(sealed)
	if err == nil {
		err = json.Unmarshal(encoded, &file)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return map[string]any{"room_id": room, "file": file}
}

// give sends a bundle's message, as it should be.
func (p *puppet) give(to target, content map[string]any) {
	p.t.Helper()
	p.sendOlm(to, p.envelope(to, "m.room_key_bundle", content))
}

// invites invites a user.
func (p *puppet) invites(room, user string) {
	p.t.Helper()
	if code := call(p.t, p.hs, p.Session, http.MethodPost, "rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": user}, nil); code != http.StatusOK {
		p.t.Fatalf("the invitation answers %d", code)
	}
}

// join accepts an invitation, as the client does through the proxy.
func (st *stage) join(room string) {
	st.t.Helper()
	st.joinElsewhere(room)
	if err := st.dev.NoteMembership(st.t.Context(), id.RoomID(room), id.UserID(st.alice.UserID), "join"); err != nil {
		st.t.Fatal(err)
	}
}

// joinElsewhere joins with another client.
func (st *stage) joinElsewhere(room string) {
	st.t.Helper()
	if code := call(st.t, st.hs, st.alice, http.MethodPost, "rooms/"+url.PathEscape(room)+"/join", map[string]any{}, nil); code != http.StatusOK {
		st.t.Fatalf("the join answers %d", code)
	}
}

// invited has bob invite alice, who hears of it.
func (p *past) invited() {
	p.st.t.Helper()
	p.bob.invites(p.room, p.st.alice.UserID)
	p.st.told()
}

// downloads counts the requests for files.
func (st *stage) downloads() int {
	return len(st.hs.Requests(liar.Is(http.MethodGet, "/media/")))
}

// wantShared fails unless the event is shown in clear as somebody's gift.
func (st *stage) wantShared(event, text, by string) {
	st.t.Helper()
	st.awaitText(event, text)
	trust := trustOf(st.shown[event])
	message, _ := trust["message"].(string)
	if trust["color"] != "grey" || trust["source"] != "bundle" || trust["shared_by"] != by || trust["code"] != "AuthenticityNotGuaranteed" ||
		message != by+" shared this message since you were not in the room when it was sent." {
		st.t.Errorf("it is shown with %v", trust)
	}
}

// bundles returns what a puppet was given in bundles: the keys and the notes, by session, and
// the messages.
func (p *puppet) bundles() (keys, notes map[string]map[string]any, messages []heard) {
	p.t.Helper()
	p.listen()
	keys, notes = make(map[string]map[string]any), make(map[string]map[string]any)
	for _, ev := range p.opened {
		if ev.Type != "m.room_key_bundle" {
			continue
		}
		messages = append(messages, ev)
		raw, err := json.Marshal(ev.Content["file"])
		if err != nil {
			p.t.Fatal(err)
		}
		var sealed struct {
			attachment.EncryptedFile
			URL id.ContentURIString `json:"url"`
		}
		if err := json.Unmarshal(raw, &sealed); err != nil {
			p.t.Fatal(err)
		}
		uri := sealed.URL.ParseOrIgnore()
		file := p.hs.Files()[uri.Homeserver+"/"+uri.FileID]
		if err := sealed.DecryptInPlace(file); err != nil {
			p.t.Fatalf("the bundle does not open: %v", err)
		}
		var bundle struct {
			Keys  []map[string]any `json:"room_keys"`
			Notes []map[string]any `json:"withheld"`
		}
		if err := json.Unmarshal(file, &bundle); err != nil {
			p.t.Fatal(err)
		}
		for into, list := range map[*map[string]map[string]any][]map[string]any{&keys: bundle.Keys, &notes: bundle.Notes} {
			for _, one := range list {
				session, _ := one["session_id"].(string)
				(*into)[session] = one
			}
		}
	}
	return keys, notes, messages
}
