package rooms

import (
	"testing"

	"maunium.net/go/mautrix/id"
)

// A visibility that a room does not state, or states wrongly, is shared: that is what its
// server does (spec, room history visibility).
func TestVisibilityThatIsNotStated(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		`{"history_visibility":"joined"}`: "joined", `{"history_visibility":"invited"}`: "invited",
		`{"history_visibility":"world_readable"}`: "world_readable", `{"history_visibility":"shared"}`: "shared",
		`{}`: "shared", `{"history_visibility":7}`: "shared", `{"history_visibility":"public"}`: "shared", `[]`: "shared",
	} {
		rt := tableWith(t, map[id.RoomID]*room{"!r:x": {}}, nil)
		s := rt.Begin()
		if err := rt.applyVisibility(t.Context(), s, "!r:x", visibilityOf([]byte(content))); err != nil {
			t.Fatal(err)
		}
		s.ApplyToMemory()
		if got := rt.known["!r:x"].visibility; got != want {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
}
