package roomkeys

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/store"
)

// A key says whether it may be passed on later by the room's history visibility
// (requirements 17.1, 9.5), under both names while clients still know the older one.
func TestSharedHistoryFollowsVisibility(t *testing.T) {
	t.Parallel()
	for visibility, want := range map[string]bool{
		"world_readable": true, "shared": true, "invited": false, "joined": false, "": false, "unheard_of": false,
	} {
		out, err := session.NewMegolmOutboundSession()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := roomKeyContent(&outboundSession{
			row: store.OutboundSession{RoomID: "!r:x", SessionID: out.ID()}, sess: out, settings: sessionSettings{Shareable: rooms.Shareable(visibility)},
		})
		if err != nil {
			t.Fatal(err)
		}
		var content map[string]any
		if err := json.Unmarshal(raw, &content); err != nil {
			t.Fatal(err)
		}
		if content["shared_history"] != want || content["org.matrix.msc3061.shared_history"] != want {
			t.Errorf("visibility %q: %s", visibility, raw)
		}
	}
}
