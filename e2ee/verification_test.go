package e2ee_test

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// ownSyncs returns the queries of the syncs of a device that have to do with its own position.
func ownSyncs(p *person) []string {
	var out []string
	for _, r := range p.hs.Requests(liar.Of(p.UserID, liar.Is(http.MethodGet, "/sync"))) {
		if strings.Contains(r.Query, "m.room.member") {
			out = append(out, r.Query)
		}
	}
	return out
}

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
		all := ownSyncs(a)
		return len(all) > 0 && strings.Contains(all[len(all)-1], "m.room.message")
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

// Such an account is asked in a room for two, and no client of it syncs: it hears that all the
// same. A room that has very many messages is left out.
func TestAskedInARoomOfABusyAccount(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	var rooms []string
	for range 21 {
		rooms = append(rooms, a.newRoom(b))
	}
	loud, room := rooms[0], rooms[20]
	a.restart()
	b.hs.SetAccountData(b.UserID, "m.direct", map[string]any{a.UserID: []string{room}})
	listened := func() (queries []string) {
		for _, r := range a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodGet, "/sync"))) {
			if !strings.Contains(r.Query, "m.room.member") {
				queries = append(queries, r.Query)
			}
		}
		return queries
	}
	names := func(room string) func(string) bool {
		return func(query string) bool { return strings.Contains(query, url.QueryEscape(room)) }
	}
	n, seen := 0, 0
	until := func(what string, holds func(last string) bool) {
		t.Helper()
		await(t, what, func() bool {
			n++
			a.hs.SetAccountData(a.UserID, "m.key_backup", map[string]any{"n": n}) // so that the own sync ends
			queries := listened()
			if len(queries) > seen {
				seen = len(queries)
				a.rig.later(16 * time.Second)
			}
			return seen > 0 && holds(queries[seen-1])
		})
	}
	until("nobody listens", names(loud))
	for i := range 25 {
		b.send(loud, "message "+strconv.Itoa(i))
	}
	until("the loud room is not left out", func(last string) bool { return names(room)(last) && !names(loud)(last) })
	b.ask(a)
	until("the request is not heard", func(string) bool {
		all, err := a.dev.Verifications(t.Context())
		return err == nil && len(all) > 0
	})
	for _, query := range listened() {
		if !names(room)(query) {
			t.Errorf("the room of the request is left out of %s", query)
		}
	}
	all, err := a.dev.Verifications(t.Context())
	if err != nil || len(all) != 1 || all[0].RoomID != idRoom(room) || all[0].UserID != idUser(b.UserID) {
		t.Errorf("asked: %+v, %v", all, err)
	}
}

// The process ends while two people compare emoji. After it was started again the person is told,
// and so is the other side; nothing is verified, and they can begin anew.
func TestVerificationEndsWithTheProcess(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	va, _ := compare(a, b)
	a.restart()
	v, err := a.dev.Verification(t.Context(), va.ID)
	if err != nil || v.State != e2ee.VerificationCancelled || !strings.Contains(v.Message, "restarted") {
		t.Errorf("alice is told %+v, %v", v, err)
	}
	if v := b.newest(e2ee.VerificationCancelled); v.CancelCode != "dev.e2ee-proxy.restarted" {
		t.Errorf("bob is told %+v", v)
	}
	if a.knows(b) != "pinned" {
		t.Errorf("bob is %s", a.knows(b))
	}
	a.ask(b)
	await(t, "bob is not asked again", func() bool {
		all, err := b.dev.Verifications(t.Context())
		return err == nil && len(all) == 2
	})
	b.must(b.dev.AcceptVerification(t.Context(), b.newest(e2ee.VerificationRequested).ID))
	a.newest(e2ee.VerificationReady)
}

// A request that nobody has answered outlives the process in which it came.
func TestRequestOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	a.ask(b)
	v := b.newest(e2ee.VerificationRequested)
	b.restart()
	b.must(b.dev.AcceptVerification(t.Context(), v.ID))
	a.must(a.dev.StartEmoji(t.Context(), a.newest(e2ee.VerificationReady).ID))
	a.newest(e2ee.VerificationCompare)
	b.newest(e2ee.VerificationCompare)
}

// Somebody is asked with whom the user shares no room: their devices may not listen to a stranger,
// so a room for the two is made, encrypted and called direct, as other clients do. It is the one
// in which they are asked the next time. Somebody who is in a room with the user is asked without.
// The homeserver's list of the room's members is empty at first, as Dendrite's is.
func TestAskSomebodyNew(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	c := newPerson(t, a.hs, "carol", "CAROL")
	made := func() int { return len(a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPost, "createRoom")))) }
	rooms := made()
	ask := func(other *person) e2ee.Verification {
		return a.must(a.dev.RequestVerification(t.Context(), idUser(other.UserID), e2ee.VerificationPartner{}))
	}
	if v := ask(b); v.RoomID != "" || made() != rooms {
		t.Errorf("bob is asked in %q", v.RoomID)
	}
	var lists atomic.Int32
	a.hs.Intercept(liar.Of(a.UserID, liar.Is(http.MethodGet, "/members")), func(_ *liar.Request, answer func() liar.Reply) liar.Reply {
		if lists.Add(1) == 1 {
			return liar.Reply{Status: http.StatusOK, Body: map[string]any{"chunk": []any{}}}
		}
		return answer()
	})
	first := ask(c)
	if first.RoomID == "" || made() != rooms+1 {
		t.Fatalf("carol is asked in %q, after %d rooms were made", first.RoomID, made()-rooms)
	}
	if how, err := a.dev.RoomEncryption(t.Context(), first.RoomID); err != nil || how != e2ee.RoomEncrypted {
		t.Errorf("the room is %v, %v", how, err)
	}
	if again := ask(c); again.RoomID != first.RoomID || made() != rooms+1 {
		t.Errorf("asked again in %q", again.RoomID)
	}
	call(t, c.hs, c.Session, http.MethodPost, "rooms/"+first.RoomID.String()+"/join", map[string]any{}, nil)
	var open string // the second request takes the first one's place, when it comes
	await(t, "carol does not hear of both", func() bool {
		all, err := c.dev.Verifications(t.Context())
		for _, v := range all {
			if !v.State.Over() {
				open = v.ID
			}
		}
		return err == nil && len(all) == 2 && open != ""
	})
	c.must(c.dev.AcceptVerification(t.Context(), open))
}

// Where no room may be made, the devices are asked.
func TestAskSomebodyNewWithoutARoom(t *testing.T) {
	t.Parallel()
	a, _ := two(t)
	c := newPerson(t, a.hs, "carol", "CAROL")
	a.hs.Intercept(liar.Of(a.UserID, liar.Is(http.MethodPost, "createRoom")), func(*liar.Request, func() liar.Reply) liar.Reply {
		return liar.Failure(http.StatusForbidden, "M_FORBIDDEN", "No rooms for you")
	})
	a.ask(c)
	if v := c.newest(e2ee.VerificationRequested); v.RoomID != "" {
		t.Errorf("asked in %q", v.RoomID)
	}
}
