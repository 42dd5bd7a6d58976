package e2ee_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// person is somebody's device behind a rig.
type person struct {
	liar.Session
	t   *testing.T
	rig *rig
	hs  *liar.Server
	dev *e2ee.Device
}

// newPerson logs a device in behind a rig of its own and waits until it is in order.
func newPerson(t *testing.T, hs *liar.Server, name, device string) *person {
	t.Helper()
	p := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: hs.Login(name, device)}
	p.dev = p.rig.device(p.Session)
	ready(t, p.dev)
	return p
}

// restart ends the process and starts it again.
func (p *person) restart() {
	p.t.Helper()
	p.rig.restart()
	p.dev = p.rig.device(p.Session)
}

// newRoom makes an encrypted room with others in it.
func (p *person) newRoom(others ...*person) string {
	p.t.Helper()
	return p.newRoomWith(map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}, others...)
}

// newRoomWith is newRoom with the content of m.room.encryption.
func (p *person) newRoomWith(encryption map[string]any, others ...*person) string {
	p.t.Helper()
	invite := make([]string, len(others))
	for i, other := range others {
		invite[i] = other.UserID
	}
	var room struct {
		RoomID string `json:"room_id"`
	}
	call(p.t, p.hs, p.Session, http.MethodPost, "createRoom", map[string]any{
		"preset": "private_chat", "invite": invite,
		"initial_state": []any{map[string]any{
			"type": "m.room.encryption", "state_key": "", "content": encryption,
		}},
	}, &room)
	for _, other := range others {
		call(p.t, p.hs, other.Session, http.MethodPost, "rooms/"+url.PathEscape(room.RoomID)+"/join", map[string]any{}, nil)
	}
	for _, one := range append(others, p) {
		if got, err := one.dev.RoomEncryption(p.t.Context(), id.RoomID(room.RoomID)); err != nil || got != e2ee.RoomEncrypted {
			p.t.Fatalf("the room's encryption is %v, %v", got, err)
		}
	}
	return room.RoomID
}

// trySend encrypts and sends a text.
func (p *person) trySend(room, text string) (eventID string, err error) {
	out := e2ee.Outgoing{
		RoomID: id.RoomID(room), Type: "m.room.message", TxnID: text,
		Content: json.RawMessage(`{"msgtype":"m.text","body":"` + text + `"}`),
	}
	enc, err := p.dev.Encrypt(p.t.Context(), out)
	if err != nil {
		return "", err
	}
	var sent struct {
		EventID id.EventID `json:"event_id"`
	}
	path := "rooms/" + url.PathEscape(room) + "/send/m.room.encrypted/" + url.PathEscape(enc.TxnID)
	call(p.t, p.hs, p.Session, http.MethodPut, path, enc.Content, &sent)
	p.dev.Sent(out, enc.TxnID, sent.EventID)
	return sent.EventID.String(), nil
}

func (p *person) send(room, text string) string {
	p.t.Helper()
	event, err := p.trySend(room, text)
	if err != nil {
		p.t.Fatalf("%s cannot send: %v", p.UserID, err)
	}
	return event
}

// shown is an event as the client sees it.
type shown struct {
	EventID   string `json:"event_id"`
	Type      string `json:"type"`
	Decrypted bool   `json:"decrypted"`
	Content   struct {
		Body string `json:"body"`
	} `json:"content"`
	Unsigned struct {
		Trust struct {
			Decrypted bool   `json:"decrypted"`
			Color     string `json:"color"`
			Code      string `json:"code"`
			Source    string `json:"source"`
		} `json:"dev.e2ee-proxy.trust"`
	} `json:"unsigned"`
}

func readShown(t *testing.T, raw json.RawMessage) shown {
	t.Helper()
	var ev shown
	if err := json.Unmarshal(raw, &ev); err != nil {
		t.Fatal(err)
	}
	return ev
}

// encrypted returns the encrypted events of a room as the homeserver sends them, oldest
// first.
func (p *person) encrypted(room string) []json.RawMessage {
	p.t.Helper()
	var page struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	call(p.t, p.hs, p.Session, http.MethodGet, "rooms/"+url.PathEscape(room)+"/messages?dir=f&limit=1000", nil, &page)
	var out []json.RawMessage
	for _, raw := range page.Chunk {
		if readShown(p.t, raw).Type == "m.room.encrypted" {
			out = append(out, raw)
		}
	}
	return out
}

// history reads a room as a client does that pages through it.
func (p *person) history(room string) []shown {
	p.t.Helper()
	return p.open(room, false)
}

// open decrypts a room's events, as those of a sync when redeliver is set.
func (p *person) open(room string, redeliver bool) []shown {
	p.t.Helper()
	var in []e2ee.Incoming
	for _, raw := range p.encrypted(room) {
		next := e2ee.Incoming{RoomID: id.RoomID(room), Event: raw, Redeliver: redeliver}
		if !redeliver {
			next.Wait = 5 * time.Second
		}
		in = append(in, next)
	}
	all, err := p.dev.Open(p.t.Context(), in)
	if err != nil {
		p.t.Fatal(err)
	}
	var out []shown
	for _, opened := range all {
		out = append(out, readShown(p.t, opened.Event))
	}
	return out
}

// awaitRead waits until the newest message of a room can be read, and gives it.
func (p *person) awaitRead(room, text string) shown {
	p.t.Helper()
	var last shown
	await(p.t, p.UserID+" cannot read "+text, func() bool {
		for _, ev := range p.history(room) {
			if last = ev; ev.Content.Body == text {
				return true
			}
		}
		return false
	})
	return last
}

// sync makes one sync as the proxy does for a client.
func (p *person) sync(since string) (e2ee.SyncExtras, string) {
	p.t.Helper()
	s, err := p.dev.BeginSync(p.t.Context(), since)
	if err != nil {
		p.t.Fatal(err)
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
		AccountData struct {
			Events []json.RawMessage `json:"events"`
		} `json:"account_data"`
	}
	path := "sync?timeout=0"
	since = e2ee.PlainToken(since)
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	call(p.t, p.hs, p.Session, http.MethodGet, path, nil, &resp)
	if stands, err := s.Stands(p.t.Context(), resp.NextBatch); err != nil {
		p.t.Fatal(err)
	} else if stands && s.Move(p.t.Context()) == nil {
		call(p.t, p.hs, p.Session, http.MethodGet, path, nil, &resp)
	}
	extras, err := s.Commit(p.t.Context(), e2ee.SyncUpdate{
		Since: since, NextBatch: resp.NextBatch, ToDevice: resp.ToDevice.Events,
		Changed: resp.DeviceLists.Changed, AccountData: resp.AccountData.Events,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return extras, resp.NextBatch
}

// recover takes the identity from secret storage.
func (p *person) recover(key secret.String) error {
	return p.dev.Recover(p.t.Context(), e2ee.Recovery{Key: key})
}
