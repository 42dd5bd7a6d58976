package e2ee_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	olmmessage "maunium.net/go/mautrix/crypto/goolm/message"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Attack: whoever reads what comes to the homeserver waits for a proxy that is killed while it
// gives a room key to many devices at once, with Olm sessions that it has. Of these only how
// far they have moved is stored, and of the messages what they follow from. If either were
// wrong after the restart, two texts would be encrypted with the same message key, or a device
// would never get the key.
func TestCrashDuringAShareWithMany(t *testing.T) {
	t.Parallel()
	everyCrash(t, 5, func(t *testing.T, c *crash, after int) (bool, string) {
		hs := liar.New(t)
		crowd := confirmedCrowd(t, hs, "bob", 40)
		alice := &person{t: t, hs: hs, rig: c.rig(t, hs), Session: hs.Login("alice", "FIRST")}
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		alice.send(hs.CreateRoom(true, alice.UserID, crowd[0].UserID), "to all of them")
		var rooms []string
		for range 2 {
			rooms = append(rooms, hs.CreateRoom(true, alice.UserID, crowd[0].UserID))
		}
		send := func() error {
			for _, room := range rooms {
				if _, err := alice.dev.RoomEncryption(t.Context(), id.RoomID(room)); err != nil {
					return err
				}
				if _, err := alice.trySend(room, "text of "+room); err != nil {
					return err
				}
			}
			return nil
		}
		c.arm(after)
		err := send()
		alice.rig.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		alice.rig.start()
		alice.dev = alice.rig.device(alice.Session)
		if err := send(); err != nil {
			t.Fatalf("the retry: %v", err)
		}
		wantNoIndexTwice(t, hs)
		wantNoOlmIndexTwice(t, hs)
		return died, readByAll(t, hs, crowd, rooms)
	})
}

// The same, for a process that lives on while its database or its client fails it.
func TestDisturbedShareWithMany(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 5, func(t *testing.T, tr *trouble) scene {
		hs := liar.New(t)
		crowd := confirmedCrowd(t, hs, "bob", 40)
		alice := &person{t: t, hs: hs, rig: tr.rig(t, hs), Session: hs.Login("alice", "FIRST")}
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		alice.send(hs.CreateRoom(true, alice.UserID, crowd[0].UserID), "to all of them")
		room := hs.CreateRoom(true, alice.UserID, crowd[0].UserID)
		return scene{
			work: func(ctx context.Context) error {
				d, err := alice.rig.eng.Device(ctx, id.UserID(alice.UserID), "FIRST", secret.NewString(alice.Token))
				if err != nil {
					return err
				}
				if _, err := d.RoomEncryption(ctx, id.RoomID(room)); err != nil {
					return err
				}
				_, err = d.Encrypt(ctx, e2ee.Outgoing{RoomID: id.RoomID(room), Type: "m.room.message", TxnID: "t", Content: json.RawMessage(`{"body":"x"}`)})
				return err
			},
			outcome: func() string {
				wantNoOlmIndexTwice(t, hs)
				alice.dev = alice.rig.device(alice.Session)
				alice.send(room, "after that")
				wantNoOlmIndexTwice(t, hs)
				return readByAll(t, hs, crowd, []string{room})
			},
		}
	})
}

// confirmedCrowd are many confirmed devices of one user.
func confirmedCrowd(t *testing.T, hs *liar.Server, user string, n int) []*puppet {
	t.Helper()
	first, own := confirmedPuppet(t, hs, user, "D0")
	crowd := []*puppet{first}
	for i := 1; i < n; i++ {
		p := newPuppet(t, hs, user, fmt.Sprint("D", i))
		own.confirm(p)
		crowd = append(crowd, p)
	}
	return crowd
}

// readByAll says how many devices have the key of how many of the rooms' events.
func readByAll(t *testing.T, hs *liar.Server, crowd []*puppet, rooms []string) string {
	t.Helper()
	readable := 0
	for _, p := range crowd {
		keys := p.roomKeys()
		for _, room := range rooms {
			read := 0
			for _, ev := range hs.Events(room) {
				if ev.Type != "m.room.encrypted" {
					continue
				}
				if h := headerOf(t, ev.Content); keys[h.session] != nil && uint64(keys[h.session].FirstKnownIndex()) <= h.index {
					read++
				}
			}
			readable += min(read, 1)
		}
	}
	return fmt.Sprintf("%d devices read %d rooms", len(crowd), readable)
}

// wantNoOlmIndexTwice looks at every Olm message that left: two of one chain and index are the
// same, and so are two requests of one transaction.
func wantNoOlmIndexTwice(t *testing.T, hs *liar.Server) {
	t.Helper()
	texts, requests, seen := make(map[string]string), make(map[string]string), 0
	for _, r := range hs.Requests(liar.Is("PUT", "sendToDevice/m.room.encrypted/")) {
		if before, ok := requests[r.Path]; ok && before != string(r.Body) {
			t.Errorf("the second request to %s is another", r.Path)
		}
		requests[r.Path] = string(r.Body)
		var body struct {
			Messages map[string]map[string]struct {
				Ciphertext map[string]struct {
					Type int
					Body string
				}
			}
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		for user, devices := range body.Messages {
			for device, content := range devices {
				for _, sealed := range content.Ciphertext {
					seen++
					where := strings.Join([]string{r.UserID, r.DeviceID, user, device, chainOf(t, sealed.Type, sealed.Body)}, " ")
					if before, ok := texts[where]; ok && before != sealed.Body {
						t.Errorf("two texts are encrypted with one message key, for %s", device)
					}
					texts[where] = sealed.Body
				}
			}
		}
	}
	if seen == 0 {
		t.Error("no Olm message was looked at")
	}
}

// chainOf names the chain of an Olm message, and its index in it.
func chainOf(t *testing.T, kind int, body string) string {
	t.Helper()
	raw, err := base64.RawStdEncoding.DecodeString(body)
	if err != nil {
		t.Fatal(err)
	}
	if kind == 0 {
		var outer olmmessage.PreKeyMessage
		if err := outer.Decode(raw); err != nil {
			t.Fatal(err)
		}
		raw = outer.Message
	}
	var inner olmmessage.Message
	if err := inner.Decode(raw); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x %d", []byte(inner.RatchetKey), inner.Counter)
}
