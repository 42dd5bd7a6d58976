package interceptors_test

import (
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
)

// Reported: after a gap Synapse sends a message with its latest edit bundled, and the edit by
// itself never. If the key of the edit is missing it is left out, and the client never learns of
// it. It is to be delivered when the key comes, and nothing stands for it until then; other
// events that are bundled come by themselves.
func TestBundledEditComesWhenItsKeyDoes(t *testing.T) {
	t.Parallel()
	const body = `{"next_batch":"s2","rooms":{"join":{"!a:hs":{"timeline":{"limited":true,"events":[
		{"type":"m.room.encrypted","event_id":"$said","sender":"@a:hs","content":{"ciphertext":{"type":"m.room.message","content":{"body":"said"}}},"unsigned":{"m.relations":{
			"m.replace":{"type":"m.room.encrypted","event_id":"$edit","sender":"@a:hs","content":{"m.relates_to":{"rel_type":"m.replace","event_id":"$said"},"ciphertext":"unknown"}},
			"m.thread":{"latest_event":{"type":"m.room.encrypted","event_id":"$latest","sender":"@a:hs","content":{"m.relates_to":{"rel_type":"m.thread","event_id":"$said"},"ciphertext":"unknown"}}}}}}]}}}}}`
	w := newSyncWorld(t, body, interceptors.SyncOptions{})
	out, err := w.sync(t, "since=s1")
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Body.String(); strings.Contains(got, "$edit") || !strings.Contains(got, "$latest") || !strings.Contains(got, `"body":"said"`) {
		t.Errorf("got %s", got)
	}
	later := map[string][2]bool{}
	for _, in := range w.dev.in {
		for _, name := range []string{"$said", "$edit", "$latest"} {
			if strings.Contains(string(in.Event), `"event_id":"`+name+`","sender"`) {
				later[name] = [2]bool{in.Redeliver, in.Hold}
			}
		}
	}
	if later["$edit"] != [2]bool{true, false} || later["$latest"] != [2]bool{false, false} {
		t.Errorf("to be delivered again, and held: %v", later)
	}
}
