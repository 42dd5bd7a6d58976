package interceptors

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
)

// A message that is repeated is to be one event. Homeservers promise that by the transaction ID, but
// Dendrite (0.15.2) makes a second event while the first request is under way, after a restart,
// and after a new login of the device. Both have the same ciphertext, which a receiver takes for a
// replay. So a repetition waits for the first request, which is not given up when its client
// goes, and what was perhaps sent before is looked for in the room.

const (
	// afterGone is how long a homeserver may take for a message whose client has gone.
	afterGone = 15 * time.Second
	// maxLooked is how many of the last events of a room are looked at.
	maxLooked = 30
)

// outlasting returns a context that ends afterGone later than the client's, or with stop.
func outlasting(ctx context.Context) (lasting context.Context, stop func()) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() {
		after := time.NewTimer(afterGone)
		defer after.Stop()
		select {
		case <-after.C:
			cancel()
		case <-lasting.Done():
		}
	})
	return lasting, func() { unhook(); cancel() }
}

// sealed is what names a ciphertext.
type sealed struct {
	SessionID  string `json:"session_id"`
	Ciphertext string `json:"ciphertext"`
}

// sentBefore returns the user's own event in a room that a message has become; empty if it is not among
// the last. One that was made a moment ago may be in the making, for a replica that is gone. Where the
// room cannot be read the message is repeated: the homeserver may know the transaction.
func sentBefore(x *Exchange, room id.RoomID, made e2ee.Encrypted) (id.EventID, error) {
	var want sealed
	if json.Unmarshal(made.Content, &want) != nil || want.Ciphertext == "" {
		return "", nil
	}
	for try := 1; ; try++ {
		event, readable := lookForSent(x, room, want)
		if event != "" || !readable || try == looks || time.Since(made.MadeAt) > afterGone {
			return event, nil
		}
		select {
		case <-x.Request.Context().Done():
			return "", x.Request.Context().Err()
		case <-time.After(lookEvery):
		}
	}
}

// lookForSent looks among the last events of a room; readable is false where they are not shown.
func lookForSent(x *Exchange, room id.RoomID, want sealed) (event id.EventID, readable bool) {
	query := exchange.IdentityQuery(x.Request.URL.Query())
	query.Set("dir", "b")
	query.Set("limit", strconv.Itoa(maxLooked))
	raw, status, err := ask(x.Request.Context(), x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/messages", Params: map[string]string{"roomId": room.String()}, Query: query,
	})
	if err != nil || status != http.StatusOK {
		return "", false
	}
	var page struct {
		Chunk []struct {
			Type    string          `json:"type"`
			Sender  id.UserID       `json:"sender"`
			EventID id.EventID      `json:"event_id"`
			Content json.RawMessage `json:"content"`
		} `json:"chunk"`
	}
	if json.Unmarshal(raw, &page) != nil {
		return "", false
	}
	for _, ev := range page.Chunk {
		var is sealed
		if ev.Type == typeEncrypted && ev.Sender == x.Identity.UserID && json.Unmarshal(ev.Content, &is) == nil && is == want {
			return ev.EventID, true
		}
	}
	return "", true
}
