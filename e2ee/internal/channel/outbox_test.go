package channel

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

func parcelsTo(n int) []olm.Parcel {
	messages := make([]olm.Message, n)
	for i := range messages {
		messages[i] = olm.Message{
			To:      &trustcache.Device{UserID: id.UserID(fmt.Sprintf("@u%05d:x", i)), DeviceID: "D"},
			Content: fmt.Appendf(nil, `{"n":%d}`, i),
		}
	}
	return olm.Pack("m.room.encrypted", messages, time.Unix(1, 0))
}

// Whoever sends requests gets each body once, the one that is stored under the same transaction,
// whether it was made beforehand, is being made, or was not begun.
func TestBodiesAreMadeOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		parcels := parcelsTo(3000)
		q := queue(parcels)
		q.Add([]store.OutboxItem{{TxnID: "last", Body: []byte("told")}})
		if len(q.Items()) != len(parcels)+1 {
			t.Fatalf("%d requests", len(q.Items()))
		}
		for i := range q.Items() {
			body, err := q.take(i)
			if err != nil || string(body) != string(q.Items()[i].Body) || len(body) == 0 {
				t.Fatalf("request %d has %.100s, and %.100s is stored: %v", i, body, q.Items()[i].Body, err)
			}
		}
		q.Wait()
		for i := range q.bodies {
			if q.bodies[i].raw != nil {
				t.Errorf("the body of request %d is kept after it was sent", i)
			}
		}
	}
}

// A queue of what was stored, and one of nothing, make their bodies when they are sent.
func TestBodiesOfStoredRequests(t *testing.T) {
	t.Parallel()
	stored := &Queued{items: []store.OutboxItem{{Body: []byte("one")}, {Recipe: []byte{99}}}}
	if body, err := stored.take(0); err != nil || string(body) != "one" {
		t.Errorf("%s, %v", body, err)
	}
	if _, err := stored.take(1); err == nil {
		t.Error("a recipe that cannot be read is sent")
	}
	none := queue(nil)
	none.Wait()
	if len(none.Items()) != 0 {
		t.Error("there are requests to nobody")
	}
}
