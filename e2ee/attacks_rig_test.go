package e2ee_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// stage is a homeserver that lies, and one device behind an engine that must not fall
// for it. When the test ends it looks at everything the homeserver was sent: no index
// of a session carries two ciphertexts, and no text is readable.
type stage struct {
	*rig
	alice  liar.Session
	dev    *e2ee.Device
	since  string
	shown  map[string]map[string]any // by event ID, as the client saw them last
	heard  []heard                   // to-device events that the client saw
	said   []string
	serial int
}

func newStage(t *testing.T, change func(*e2ee.Options)) *stage {
	t.Helper()
	alice := aliceInOrder(t)
	return stageOn(alice.rig(t, nil, unspread(change)), alice.session)
}

// newbornStage returns a stage whose device has set itself up a moment ago.
func newbornStage(t *testing.T, change func(*e2ee.Options)) *stage {
	t.Helper()
	hs := liar.New(t)
	return stageOn(newRig(t, hs, unspread(change)), hs.Login("alice", "ALICE"))
}

func unspread(change func(*e2ee.Options)) func(*e2ee.Options) {
	return func(o *e2ee.Options) {
		o.Spread = -1
		if change != nil {
			change(o)
		}
	}
}

func stageOn(r *rig, alice liar.Session) *stage {
	t := r.t
	t.Helper()
	st := &stage{rig: r, alice: alice, shown: make(map[string]map[string]any)}
	st.dev = st.device(st.alice)
	ready(t, st.dev)
	t.Cleanup(func() {
		wantNoIndexTwice(t, st.hs)
		for _, text := range st.said {
			if st.hs.PlaintextSeen(text) {
				t.Errorf("the homeserver can read %q", text)
			}
		}
	})
	return st
}

// use takes the device from the engine, as every request does.
func (st *stage) use(ctx context.Context) error {
	d, err := st.eng.Device(ctx, id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID), secret.NewString(st.alice.Token))
	if err == nil {
		st.dev = d
	}
	return err
}

// again restarts the engine and takes the device from it.
func (st *stage) again() {
	st.t.Helper()
	st.restart()
	st.dev = st.device(st.alice)
}

// later moves the engine's clock.
func (r *rig) later(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead += by
}

// told makes sure that the engine has heard what the homeserver has to tell it.
func (st *stage) told() {
	st.t.Helper()
	if err := st.dev.SyncNow(st.t.Context()); err != nil {
		st.t.Fatal(err)
	}
}

// target returns how puppets reach the device.
func (st *stage) target() target {
	st.t.Helper()
	s := status(st.t, st.dev).Keys
	return target{st.alice.UserID, st.alice.DeviceID, s.Ed25519, s.Curve25519}
}

// outgoing returns a text with a transaction ID of its own.
func (st *stage) outgoing(room, text string) e2ee.Outgoing {
	st.serial++
	text = clearText(text)
	st.said = append(st.said, text)
	content, err := json.Marshal(map[string]any{"msgtype": "m.text", "body": text})
	if err != nil {
		st.t.Fatal(err)
	}
	return e2ee.Outgoing{RoomID: id.RoomID(room), Type: "m.room.message", TxnID: fmt.Sprintf("txn%d", st.serial), Content: content}
}

// clearText marks a text, so that it is nowhere else.
func clearText(text string) string { return "clear text: " + text }

// encrypt asks how the room is encrypted and encrypts, as the send handler does.
func (st *stage) encrypt(out e2ee.Outgoing) (e2ee.Encrypted, error) {
	st.t.Helper()
	how, err := st.dev.RoomEncryption(st.t.Context(), out.RoomID)
	if err != nil {
		return e2ee.Encrypted{}, err
	}
	if how != e2ee.RoomEncrypted {
		return e2ee.Encrypted{}, fmt.Errorf("%w: room encryption %d", e2ee.ErrCannotEncrypt, how)
	}
	return st.dev.Encrypt(st.t.Context(), out)
}

// put sends what was encrypted and records what the homeserver says.
func (st *stage) put(out e2ee.Outgoing, enc e2ee.Encrypted) string {
	st.t.Helper()
	var sent struct {
		EventID id.EventID `json:"event_id"`
	}
	path := "rooms/" + url.PathEscape(out.RoomID.String()) + "/send/m.room.encrypted/" + enc.TxnID
	if code := call(st.t, st.hs, st.alice, http.MethodPut, path, enc.Content, &sent); code != http.StatusOK {
		st.t.Fatalf("send answers %d", code)
	}
	st.dev.Sent(out, enc.TxnID, sent.EventID)
	return sent.EventID.String()
}

// trySend sends a text and returns its session.
func (st *stage) trySend(room, text string) (header, error) {
	st.t.Helper()
	out := st.outgoing(room, text)
	enc, err := st.encrypt(out)
	if err != nil {
		return header{}, err
	}
	h := headerOf(st.t, enc.Content)
	h.event = st.put(out, enc)
	return h, nil
}

func (st *stage) send(room, text string) header {
	st.t.Helper()
	h, err := st.trySend(room, text)
	if err != nil {
		st.t.Fatalf("send %q: %v", text, err)
	}
	return h
}

// sync makes one sync as the proxy does for a client and takes note of what it shows.
func (st *stage) sync() {
	st.t.Helper()
	if err := st.trySync(); err != nil {
		st.t.Fatal(err)
	}
}

func (st *stage) trySync() error {
	st.t.Helper()
	return st.syncWith(st.t.Context())
}

// syncWith is trySync for a client that may hang up.
func (st *stage) syncWith(ctx context.Context) error {
	st.t.Helper()
	in, err := st.dev.BeginSync(ctx, st.since)
	if err != nil {
		return err
	}
	defer in.End()
	path := "sync?timeout=0"
	if st.since != "" {
		path += "&since=" + url.QueryEscape(st.since)
	}
	resp := clientResponse{own: st.alice.UserID}
	if code := call(st.t, st.hs, st.alice, http.MethodGet, path, nil, &resp); code != http.StatusOK {
		st.t.Fatalf("sync answers %d", code)
	}
	stands, err := in.Stands(ctx, resp.NextBatch)
	if err != nil {
		return err
	}
	if stands && in.Move(ctx) == nil { // as the proxy does
		resp = clientResponse{own: st.alice.UserID}
		call(st.t, st.hs, st.alice, http.MethodGet, path, nil, &resp)
	}
	extras, err := in.Commit(ctx, resp.update(st.since))
	if err != nil {
		return err
	}
	for _, raw := range extras.ToDevice {
		var ev heard
		if err := json.Unmarshal(raw, &ev); err != nil {
			st.t.Errorf("the client is shown %q: %v", raw, err)
		}
		st.heard = append(st.heard, ev)
	}
	for _, events := range extras.Late {
		for _, raw := range events {
			st.show(raw)
		}
	}
	for room, r := range resp.Rooms.Join {
		batch := make([]e2ee.Incoming, len(r.Timeline.Events))
		for i, raw := range r.Timeline.Events {
			batch[i] = e2ee.Incoming{RoomID: room, Event: raw, Redeliver: true, Order: e2ee.OrderAfter, Hold: st.since != ""}
		}
		opened, err := st.dev.Open(ctx, batch)
		if err != nil {
			return err
		}
		for i := range opened {
			if !opened[i].Hidden {
				st.show(opened[i].Event)
			}
		}
	}
	st.since = resp.NextBatch // a client that gets no answer asks for it again
	return nil
}

func (st *stage) show(raw json.RawMessage) {
	st.t.Helper()
	var ev map[string]any
	if err := json.Unmarshal(raw, &ev); err != nil {
		st.t.Errorf("the client is shown %q: %v", raw, err)
		return
	}
	eventID, _ := ev["event_id"].(string)
	st.shown[eventID] = ev
}

// awaitText syncs until the client is shown a text in an event.
func (st *stage) awaitText(event, text string) {
	st.t.Helper()
	await(st.t, fmt.Sprintf("%q is not shown", text), func() bool {
		st.sync()
		return bodyOf(st.shown[event]) == text
	})
}

// wantHidden syncs until the event is shown and fails when its text is. It returns the code
// under which the event was refused.
func (st *stage) wantHidden(event, text string) (code string) {
	st.t.Helper()
	await(st.t, "the event does not come", func() bool {
		st.sync()
		return st.shown[event] != nil
	})
	if holds(st.shown[event], text) {
		st.t.Errorf("the client is shown %v", st.shown[event])
	}
	return codeOf(st.shown[event])
}

// holds reports whether a text is anywhere in decoded JSON.
func holds(v any, text string) bool {
	switch v := v.(type) {
	case string:
		return v == text
	case []any:
		for _, one := range v {
			if holds(one, text) {
				return true
			}
		}
	case map[string]any:
		for name, one := range v {
			if name == text || holds(one, text) {
				return true
			}
		}
	}
	return false
}

func bodyOf(ev map[string]any) string {
	content, _ := ev["content"].(map[string]any)
	body, _ := content["body"].(string)
	return body
}

func trustOf(ev map[string]any) map[string]any {
	unsigned, _ := ev["unsigned"].(map[string]any)
	trust, _ := unsigned["dev.e2ee-proxy.trust"].(map[string]any)
	return trust
}

func codeOf(ev map[string]any) string {
	code, _ := trustOf(ev)["code"].(string)
	return code
}

// header is what the homeserver sees of a Megolm message.
type header struct {
	session string
	index   uint64
	event   string
}

func headerOf(t *testing.T, content []byte) header {
	t.Helper()
	var c struct {
		SessionID  string `json:"session_id"`
		Ciphertext string `json:"ciphertext"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawStdEncoding.DecodeString(c.Ciphertext)
	if err != nil || len(raw) < 3 || raw[0] != 3 || raw[1] != 8 {
		t.Fatalf("%q is no Megolm message: %v", c.Ciphertext, err)
	}
	h := header{session: c.SessionID}
	for i, b := range raw[2:] { // a variable-length integer (Megolm, message format)
		h.index |= uint64(b&0x7f) << (7 * i)
		if b&0x80 == 0 {
			break
		}
	}
	return h
}

// wantNoIndexTwice fails when the homeserver was sent two ciphertexts for one index of a
// session (requirement 7.4).
func wantNoIndexTwice(t *testing.T, hs *liar.Server) {
	t.Helper()
	type place struct {
		session string
		index   uint64
	}
	used := make(map[place]string)
	for _, r := range hs.Requests(liar.Is("PUT", "/send/m.room.encrypted/")) {
		h := headerOf(t, r.Body)
		at := place{h.session, h.index}
		if before, ok := used[at]; ok && before != string(r.Body) {
			t.Errorf("index %d of session %s carries two ciphertexts", h.index, h.session)
		}
		used[at] = string(r.Body)
	}
}

// clientResponse is a sync response as far as these tests need it.
type clientResponse struct {
	own string // whose it is; invitations of others do not count

	NextBatch string `json:"next_batch"`
	ToDevice  struct {
		Events []json.RawMessage `json:"events"`
	} `json:"to_device"`
	DeviceLists struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	} `json:"device_lists"`
	OneTimeKeys map[string]int `json:"device_one_time_keys_count"`
	Fallback    []string       `json:"device_unused_fallback_key_types"`
	Rooms       struct {
		Join  map[id.RoomID]clientRoom `json:"join"`
		Leave map[id.RoomID]clientRoom `json:"leave"`

		Invite map[id.RoomID]struct {
			State struct {
				Events []struct {
					Type     string    `json:"type"`
					Sender   id.UserID `json:"sender"`
					StateKey string    `json:"state_key"`
				} `json:"events"`
			} `json:"invite_state"`
		} `json:"invite"`
	} `json:"rooms"`
}

type clientRoom struct {
	State struct {
		Events []json.RawMessage `json:"events"`
	} `json:"state"`
	Timeline struct {
		Events  []json.RawMessage `json:"events"`
		Limited bool              `json:"limited"`
	} `json:"timeline"`
}

// update reduces a response to what the sync handler gives the engine.
func (r *clientResponse) update(since string) e2ee.SyncUpdate {
	u := e2ee.SyncUpdate{
		Since: since, NextBatch: r.NextBatch, ToDevice: r.ToDevice.Events,
		Changed: r.DeviceLists.Changed, Left: r.DeviceLists.Left,
		OneTimeKeys: r.OneTimeKeys, UnusedFallback: r.Fallback,
	}
	add := func(section e2ee.Section, rooms map[id.RoomID]clientRoom) {
		for roomID, room := range rooms {
			ru := e2ee.RoomUpdate{RoomID: roomID, Section: section, Limited: room.Timeline.Limited}
			for _, list := range [][]json.RawMessage{room.State.Events, room.Timeline.Events} {
				for _, raw := range list {
					var ev struct {
						Type     string          `json:"type"`
						StateKey *string         `json:"state_key"`
						Content  json.RawMessage `json:"content"`
					}
					if json.Unmarshal(raw, &ev) == nil && ev.StateKey != nil {
						ru.Changes = append(ru.Changes, e2ee.StateChange{Type: ev.Type, StateKey: *ev.StateKey, Content: ev.Content})
					}
				}
			}
			u.Rooms = append(u.Rooms, ru)
		}
	}
	add(e2ee.SectionJoin, r.Rooms.Join)
	add(e2ee.SectionLeave, r.Rooms.Leave)
	for roomID, room := range r.Rooms.Invite {
		ru := e2ee.RoomUpdate{RoomID: roomID, Section: e2ee.SectionInvite}
		for _, ev := range room.State.Events {
			if ev.Type == "m.room.member" && ev.StateKey == r.own {
				ru.Inviter = ev.Sender
			}
		}
		u.Rooms = append(u.Rooms, ru)
	}
	return u
}
