package unread

import (
	"context"
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/id"
)

// nobody answers nothing.
type nobody struct{ Asker }

// BenchmarkVerdict is what one decrypted event of a sync costs.
func BenchmarkVerdict(b *testing.B) {
	clear, err := ForClear(json.RawMessage(defaults), me)
	if err != nil {
		b.Fatal(err)
	}
	sealed, err := Parse(json.RawMessage(defaults))
	if err != nil {
		b.Fatal(err)
	}
	seen := &Seen{
		RoomID: room, Clear: json.RawMessage(message(`{"msgtype":"m.text","body":"how are you today?","m.mentions":{}}`)),
		Raw: json.RawMessage(eventOf("m.room.encrypted", `{"algorithm":"m.megolm.v1.aes-sha2","session_id":"GkWCYBAPvZuzyBsIHlAk5SZYbHFNU4WwG8HUr","ciphertext":"AwgAEpABm6sMe9UvTnPOwY7mYfXYvnAz1rBLJ3nYFvYpM6fBNTU2QmJ2mF3wXH6M9cCkPj"}`)),
	}
	b.ReportAllocs()
	for b.Loop() {
		j := judge{by: &known{clear: clear, sealed: sealed}, ask: nobody{}, user: me, facts: make(map[id.RoomID]*facts)}

		if _, ok := j.verdict(context.Background(), &log{room: room}, seen); !ok {
			b.Fatal("no verdict")
		}
	}
}
