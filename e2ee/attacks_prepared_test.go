package e2ee_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// Attack A4, between batches that are opened at the same time. The homeserver repeats a ciphertext
// under another event ID in the next batch, which is decrypted before the first is done; and while
// both are on their way better keys come, so that the two were decrypted with different copies of
// the key. Whichever is stored first is shown, the other is refused.
func TestReplayedAcrossPreparedBatches(t *testing.T) {
	t.Parallel()
	for name, better := range map[string]int{"the same key": 0, "a better key between": 1, "a better key afterwards": 2, "both": 3} {
		for _, swapped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, swapped %t", name, swapped), func(t *testing.T) {
				t.Parallel()
				replayAcross(t, better, swapped)
			})
		}
	}
}

func replayAcross(t *testing.T, better int, swapped bool) {
	t.Helper()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := bob.newMegolm(room)
	var exports [][]byte
	for range 2 {
		exports = append(exports, said.export())
		said.seal(said.text("not delivered"))
	}
	said.share(st.target()) // from index 2 on
	st.awaitText(said.say("hello"), "hello")
	improve := func(export []byte) {
		bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", roomKey(room, said.ID().String(), export)))
		st.sync()
	}
	content := said.seal(said.text("pay"))
	prepare := func(event string) *e2ee.Prepared {
		raw, err := json.Marshal(map[string]any{
			"type": "m.room.encrypted", "event_id": event, "sender": bob.UserID, "origin_server_ts": 1700000000000, "content": content,
		})
		if err != nil {
			t.Fatal(err)
		}
		return st.dev.Prepare(t.Context(), []e2ee.Incoming{{RoomID: id.RoomID(room), Event: raw}})
	}
	open := func(p *e2ee.Prepared) bool {
		out, err := st.dev.OpenPrepared(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return out[0].Decrypted
	}
	first := prepare("$first")
	if better&1 == 1 {
		improve(exports[1])
	}
	second := prepare("$second")
	if better&2 == 2 {
		improve(exports[0])
	}
	if swapped {
		first, second = second, first
	}
	if !open(first) {
		t.Error("what was settled first is not shown")
	}
	if open(second) {
		t.Error("the same ciphertext is shown again under another ID")
	}
	if !open(prepare(map[bool]string{false: "$first", true: "$second"}[swapped])) {
		t.Error("the event that has the index is not shown when it comes again")
	}
}
