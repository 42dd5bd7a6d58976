package rooms

import (
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"
)

// What the homeserver has shown users of rooms leaves memory with their devices, and nobody else's
// does.
func TestForgetUsers(t *testing.T) {
	t.Parallel()
	lineages, err := lru.New[roomQuery, []id.RoomID](10)
	if err != nil {
		t.Fatal(err)
	}
	sh := &Shared{lineages: lineages}
	for _, about := range []roomQuery{{"@alice:hs", "!one:hs"}, {"@bob:hs", "!one:hs"}, {"@alice:hs", "!two:hs"}} {
		sh.lineages.Add(about, nil)
	}
	sh.Forget(map[id.UserID]bool{"@alice:hs": true})
	if left := sh.lineages.Keys(); len(left) != 1 || left[0].user != "@bob:hs" {
		t.Errorf("left are %v", left)
	}
}
