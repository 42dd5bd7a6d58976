package e2ee_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/store"
)

// user is somebody whose client talks to the homeserver through an engine.
type user struct {
	tesths.Account
	dev   *e2ee.Device
	hs    tesths.Client
	since string
}

func newEngine(t *testing.T, h *tesths.Homeserver) *e2ee.Engine {
	t.Helper()
	db, err := store.Open(t.Context(), store.Options{
		URL: secret.NewString("sqlite:" + filepath.Join(t.TempDir(), "e2ee.db")), MasterKeys: testKeys(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	base, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	eng, err := e2ee.New(e2ee.Options{
		Store: db, Homeserver: base, Client: &http.Client{}, Log: zerolog.New(zerolog.NewTestWriter(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := eng.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := eng.Close(context.Background()); err != nil {
			t.Error(err)
		}
		_ = db.Close()
	})
	return eng
}

func join(t *testing.T, h *tesths.Homeserver, eng *e2ee.Engine, name string) *user {
	t.Helper()
	acct, err := h.Register(t.Context(), name, "password of "+name)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{Account: acct, hs: h.Client().As(acct)}
	u.dev, err = eng.Device(t.Context(), id.UserID(acct.UserID), id.DeviceID(acct.DeviceID), secret.NewString(acct.AccessToken))
	if err != nil {
		t.Fatal(err)
	}
	u.dev.PublishWithin(0)
	// Until then others would tell the device m.unverified.
	err = testproc.Await(t.Context(), func(ctx context.Context) error {
		status, err := u.dev.Status(ctx)
		if err != nil || !status.Identity.DeviceSigned {
			return errors.Join(errNotYet, err)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s is not confirmed: %v", acct.UserID, err)
	}
	return u
}

// send does what a send through the proxy does.
func (u *user) send(t *testing.T, room, text string) {
	t.Helper()
	out := e2ee.Outgoing{RoomID: id.RoomID(room), Type: "m.room.message", TxnID: text, Content: json.RawMessage(`{"msgtype":"m.text","body":"` + text + `"}`)}
	enc, err := u.dev.Encrypt(t.Context(), out)
	if err != nil {
		t.Fatalf("%s cannot send: %v", u.UserID, err)
	}
	if strings.Contains(string(enc.Content), text) {
		t.Fatal("the ciphertext holds the text")
	}
	var resp struct {
		EventID id.EventID `json:"event_id"`
	}
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/send/m.room.encrypted/" + url.PathEscape(enc.TxnID)
	if err := u.hs.Call(t.Context(), http.MethodPut, path, enc.Content, &resp); err != nil {
		t.Fatal(err)
	}
	u.dev.Sent(out, enc.TxnID, resp.EventID)
}

// read syncs once as the proxy does for a client and returns the clear messages.
func (u *user) read(t *testing.T, room string) []map[string]any {
	t.Helper()
	s, err := u.dev.BeginSync(t.Context(), u.since)
	if err != nil {
		t.Fatal(err)
	}
	defer s.End()
	var resp struct {
		NextBatch string `json:"next_batch"`
		ToDevice  struct {
			Events []json.RawMessage `json:"events"`
		} `json:"to_device"`
		DeviceLists struct {
			Changed []id.UserID `json:"changed"`
		} `json:"device_lists"`
		OTK   map[string]int `json:"device_one_time_keys_count"`
		Rooms struct {
			Join map[string]struct {
				Timeline struct {
					Events []json.RawMessage `json:"events"`
				} `json:"timeline"`
			} `json:"join"`
		} `json:"rooms"`
	}
	path := "/_matrix/client/v3/sync?timeout=1000"
	if u.since != "" {
		path += "&since=" + url.QueryEscape(u.since)
	}
	if err := u.hs.Call(t.Context(), http.MethodGet, path, nil, &resp); err != nil {
		t.Fatal(err)
	}
	extras, err := s.Commit(t.Context(), e2ee.SyncUpdate{
		Since: u.since, NextBatch: resp.NextBatch, ToDevice: resp.ToDevice.Events, Changed: resp.DeviceLists.Changed, OneTimeKeys: resp.OTK,
	})
	if err != nil {
		t.Fatal(err)
	}
	u.since = resp.NextBatch
	var in []e2ee.Incoming
	for _, ev := range resp.Rooms.Join[room].Timeline.Events {
		in = append(in, e2ee.Incoming{RoomID: id.RoomID(room), Event: ev, Redeliver: true})
	}
	var out []map[string]any
	keep := func(raw json.RawMessage) {
		var ev map[string]any
		if err := json.Unmarshal(raw, &ev); err != nil {
			t.Fatal(err)
		}
		if ev["type"] == "m.room.message" || ev["type"] == "m.room.encrypted" {
			out = append(out, ev)
		}
	}
	for _, ev := range extras.Late[id.RoomID(room)] {
		keep(ev)
	}
	opened, err := u.dev.Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range opened {
		keep(o.Event)
	}
	return out
}

// await reads until a message with the text is there.
func (u *user) await(t *testing.T, room, text string) map[string]any {
	t.Helper()
	var found map[string]any
	err := testproc.Await(t.Context(), func(context.Context) error {
		for _, ev := range u.read(t, room) {
			if content, ok := ev["content"].(map[string]any); ok && content["body"] == text {
				found = ev
				return nil
			}
			t.Logf("%s sees %v", u.UserID, ev)
		}
		return errNotYet
	})
	if err != nil {
		t.Fatalf("%s does not see %q: %v", u.UserID, text, err)
	}
	return found
}

// Two users whose clients know nothing of encryption talk through two engines, in
// both directions, and every message is shown without a shield.
func TestConversation(t *testing.T) {
	h := tesths.Dendrite(t)
	alice := join(t, h, newEngine(t, h), "alice")
	bob := join(t, h, newEngine(t, h), "bob")
	var room struct {
		RoomID string `json:"room_id"`
	}
	err := alice.hs.Call(t.Context(), http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{
		"preset": "private_chat", "invite": []string{bob.UserID},
		"initial_state": []any{map[string]any{
			"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"},
		}},
	}, &room)
	if err != nil {
		t.Fatal(err)
	}
	if err := bob.hs.Call(t.Context(), http.MethodPost, "/_matrix/client/v3/rooms/"+url.PathEscape(room.RoomID)+"/join", map[string]any{}, nil); err != nil {
		t.Fatal(err)
	}
	for i, from := range []*user{alice, bob, alice, bob} {
		to := bob
		if from == bob {
			to = alice
		}
		text := "message " + string(rune('A'+i))
		from.send(t, room.RoomID, text)
		ev := to.await(t, room.RoomID, text)
		trust, _ := ev["unsigned"].(map[string]any)["dev.e2ee-proxy.trust"].(map[string]any)
		if trust["color"] != "none" || trust["decrypted"] != true || trust["source"] != "direct" {
			t.Errorf("trust of %q is %v", text, trust)
		}
		if own := from.await(t, room.RoomID, text); own["decrypted"] != true {
			t.Errorf("%s cannot read their own message", from.UserID)
		}
	}
}
