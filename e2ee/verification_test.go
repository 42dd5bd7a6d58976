package e2ee_test

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// An account with more rooms than the proxy's own syncs always read messages of: a verification in
// a room that it asks for is seen through all the same, and afterwards the syncs have no messages
// any more.
func TestVerifyInARoomOfABusyAccount(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	room := ""
	for range 21 {
		room = a.newRoom(b)
	}
	a.restart() // rooms are counted once an hour
	a.hs.SetAccountData(a.UserID, "m.direct", map[string]any{b.UserID: []string{room}})
	ctx := t.Context()
	withMessages := func() bool {
		all := a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodGet, "/sync")))
		return len(all) > 0 && strings.Contains(all[len(all)-1].Query, "m.room.message")
	}
	await(t, "the syncs have messages from the start", func() bool { return !withMessages() })
	a.ask(b)
	if v := a.newest(e2ee.VerificationRequested); v.RoomID != idRoom(room) {
		t.Errorf("asked in %q", v.RoomID)
	}
	if err := b.dev.SyncNow(ctx); err != nil {
		t.Fatal(err)
	}
	b.must(b.dev.AcceptVerification(ctx, b.newest(e2ee.VerificationRequested).ID))
	b.must(b.dev.StartEmoji(ctx, b.newest(e2ee.VerificationReady).ID))
	va, vb := a.newest(e2ee.VerificationCompare), b.newest(e2ee.VerificationCompare)
	a.must(a.dev.ConfirmEmoji(ctx, va.ID, true))
	b.must(b.dev.ConfirmEmoji(ctx, vb.ID, true))
	a.newest(e2ee.VerificationDone)
	b.newest(e2ee.VerificationDone)
	if a.knows(b) != "verified" || b.knows(a) != "verified" {
		t.Errorf("bob is %s, alice %s", a.knows(b), b.knows(a))
	}
	if err := a.dev.SyncNow(ctx); err != nil {
		t.Fatal(err)
	}
	await(t, "the syncs still have messages", func() bool { return !withMessages() })
}
