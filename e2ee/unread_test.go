package e2ee_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// pushRules are those of alice: mentions and keywords are highlighted, messages and
// ciphertext notify, edits do not.
const pushRules = `{"global":{"override":[
	{"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"@alice:liar.test"}],"actions":["notify",{"set_tweak":"highlight"}]},
	{"rule_id":".m.rule.is_room_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},{"kind":"sender_notification_permission","key":"room"}],"actions":["notify",{"set_tweak":"highlight"}]},
	{"rule_id":".m.rule.suppress_edits","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}],"actions":[]}],
"content":[{"rule_id":"word","enabled":true,"pattern":"lighthouse","actions":["notify",{"set_tweak":"highlight"}]}],
"underride":[
	{"rule_id":".m.rule.message","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.message"}],"actions":["notify"]},
	{"rule_id":".m.rule.encrypted","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}],"actions":["notify"]}]}}`

// unreadStage is a stage whose client looks at the numbers of unread messages. The homeserver's own
// are what a test says.
type unreadStage struct {
	*stage
	room     string
	server   int
	receipts []e2ee.UnreadReceipt
	rules    string
	asked    int // how often the push rules were read
}

func newUnreadStage(t *testing.T) (*unreadStage, *puppet, *megolm) {
	t.Helper()
	st := newStage(t, nil)
	r := &unreadStage{stage: st, rules: pushRules}
	st.hs.Intercept(liar.Is(http.MethodGet, "/pushrules/$"), func(_ *liar.Request, _ func() liar.Reply) liar.Reply {
		r.asked++
		if r.rules == "" {
			return liar.Failure(http.StatusInternalServerError, "M_UNKNOWN", "not now")
		}
		return liar.OK(json.RawMessage(r.rules))
	})
	room, bob, said := hear(t, st)
	r.room = room
	return r, bob, said
}

// sync makes a sync of the client, and returns the numbers of the room that it is told.
func (r *unreadStage) sync() (got e2ee.UnreadCounts, known bool) {
	r.t.Helper()
	in, err := r.dev.BeginSync(r.t.Context(), r.since)
	if err != nil {
		r.t.Fatal(err)
	}
	defer in.End()
	var resp clientResponse
	call(r.t, r.hs, r.alice, http.MethodGet, "sync?timeout=0&since="+url.QueryEscape(r.since), nil, &resp)
	update := resp.update(r.since)
	one := e2ee.UnreadRoom{RoomID: id.RoomID(r.room), Counts: &e2ee.UnreadCounts{Notifications: r.server}, Receipts: r.receipts}
	var batch []e2ee.Incoming
	for _, raw := range resp.Rooms.Join[one.RoomID].Timeline.Events {
		var ev struct {
			ID   id.EventID `json:"event_id"`
			Type string     `json:"type"`
			TS   int64      `json:"origin_server_ts"`
		}
		if err := json.Unmarshal(raw, &ev); err != nil {
			r.t.Fatal(err)
		}
		one.Timeline = append(one.Timeline, e2ee.UnreadEvent{Ref: e2ee.UnreadRef(ev.ID), At: uint32(ev.TS / 1000), Sealed: ev.Type == "m.room.encrypted"})
		batch = append(batch, e2ee.Incoming{RoomID: one.RoomID, Event: raw, Redeliver: true, Order: e2ee.OrderAfter})
	}
	if len(batch) > 0 || len(r.receipts) > 0 {
		update.Unread.Rooms = []e2ee.UnreadRoom{one}
	}
	r.receipts = nil
	if _, err := in.Commit(r.t.Context(), update); err != nil {
		r.t.Fatal(err)
	}
	if len(batch) > 0 {
		if _, err := r.dev.Open(r.t.Context(), batch); err != nil {
			r.t.Fatal(err)
		}
	}
	counts, _, known := in.Unread(one.RoomID, false)
	r.since = resp.NextBatch
	return counts[""], known
}

// want syncs, and compares the numbers.
func (r *unreadStage) want(what string, notifications, highlights int) {
	r.t.Helper()
	if got, known := r.sync(); !known || got != (e2ee.UnreadCounts{Notifications: notifications, Highlights: highlights}) {
		r.t.Errorf("%s: %+v, known %v; want %d and %d", what, got, known, notifications, highlights)
	}
}

// hears has the homeserver deliver an encrypted event, which it counts.
func (r *unreadStage) hears(said *megolm, content string) (event string) {
	r.t.Helper()
	r.server++
	return r.hs.Inject(r.room, liar.Event{Type: "m.room.encrypted", Sender: said.p.UserID, Content: said.seal(map[string]any{
		"type": "m.room.message", "room_id": r.room, "content": json.RawMessage(content),
	})})
}

func (r *unreadStage) reads(event, thread string) {
	r.receipts = append(r.receipts, e2ee.UnreadReceipt{Event: id.EventID(event), Thread: thread, Timestamp: r.now().UnixMilli()})
}

const mentionsAlice = `{"body":"x","m.mentions":{"user_ids":["@alice:liar.test"]}}`

// Issue 8, Part 3: a mention inside the ciphertext raises the number of highlights, a receipt
// resets it, and a restart does not change it.
func TestMentionInCiphertextIsCounted(t *testing.T) {
	t.Parallel()
	r, _, said := newUnreadStage(t)
	r.hears(said, `{"body":"x"}`)
	r.want("a message", 1, 0)
	mention := r.hears(said, mentionsAlice)
	r.want("a mention", 2, 1)
	r.hears(said, `{"body":"the lighthouse"}`)
	r.want("a keyword", 3, 2)
	if r.asked != 1 {
		t.Errorf("the push rules were read %d times", r.asked)
	}
	for range 2 {
		r.again()
		r.hears(said, `{"body":"x"}`)
		r.want("after a restart", r.server, 2)
	}
	r.reads(mention, "")
	r.server -= 2
	r.want("the mention is read", r.server, 1)
	r.reads(r.hears(said, `{"body":"x"}`), "")
	r.server = 0
	r.want("all is read", 0, 0)
	r.again()
	r.hears(said, `{"body":"x"}`)
	r.want("after another restart", 1, 0)
}

// A key that comes late raises the number of highlights, in a response that has nothing else of
// the room, also after a restart.
func TestLateKeyRaisesTheHighlight(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		r, bob, _ := newUnreadStage(t)
		said, give := keyed(r.stage, bob, r.room)
		r.hears(said, mentionsAlice)
		r.want("it cannot be read", 1, 0)
		if restart {
			r.again()
		}
		give()
		await(t, "the highlight does not come", func() bool {
			got, known := r.sync()
			return known && got == e2ee.UnreadCounts{Notifications: 1, Highlights: 1}
		})
	}
}

// Two devices of an account see the same events, and what one has read the other has.
func TestUnreadBelongsToTheAccount(t *testing.T) {
	t.Parallel()
	r, _, said := newUnreadStage(t)
	event := r.hears(said, mentionsAlice)
	before := r.since
	r.want("the first device", 1, 1)
	r.since = before
	r.want("the same again", 1, 1)
	r.reads(event, "main")
	r.server = 0
	r.want("it is read", 0, 0)
	r.since, r.server = before, 0
	r.want("a device that lags behind", 0, 0)
}

// Push rules that cannot be read, or are none, change nothing: everything counts as the
// homeserver counts it. They are asked for again after a while.
func TestUnreadWithoutPushRules(t *testing.T) {
	t.Parallel()
	for _, rules := range []string{"", `[]`, `{"global":7}`} {
		r, _, said := newUnreadStage(t)
		r.rules = rules
		r.again()
		r.hears(said, mentionsAlice)
		r.want("no rules", 1, 0)
		asked := r.asked
		r.hears(said, mentionsAlice)
		r.want("no rules again", 2, 0)
		if r.asked != asked {
			t.Error("they are asked for each time")
		}
		r.rules = pushRules
		r.later(2 * time.Minute)
		r.hears(said, mentionsAlice)
		r.want("they can be read", 3, 1)
	}
}

// Rules that change count from then on.
func TestPushRulesThatChange(t *testing.T) {
	t.Parallel()
	r, _, said := newUnreadStage(t)
	r.hears(said, `{"body":"a whale"}`)
	r.want("no rule for it", 1, 0)
	in, err := r.dev.BeginSync(t.Context(), r.since)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(pushRules, "lighthouse", "whale", 1)
	if _, err := in.Commit(t.Context(), e2ee.SyncUpdate{Since: r.since, NextBatch: r.since, Unread: e2ee.UnreadUpdate{Rules: json.RawMessage(changed)}}); err != nil {
		t.Fatal(err)
	}
	in.End()
	r.hears(said, `{"body":"a whale"}`)
	r.want("a rule for it", 2, 1)
}

// Whoever may not notify the whole room mentions it in vain. The room's levels are read only
// for an event that asks for it.
func TestRoomMentionNeedsPower(t *testing.T) {
	t.Parallel()
	r, _, said := newUnreadStage(t)
	levels := liar.Is(http.MethodGet, "/state/m.room.power_levels")
	r.hears(said, `{"body":"x"}`)
	r.want("a message", 1, 0)
	if n := len(r.hs.Requests(levels)); n != 0 {
		t.Errorf("the levels were read %d times", n)
	}
	r.hears(said, `{"body":"x","m.mentions":{"room":true}}`)
	r.want("bob may not", 2, 0)
	call(t, r.hs, r.alice, http.MethodPut, "rooms/"+url.PathEscape(r.room)+"/state/m.room.power_levels", map[string]any{
		"users": map[string]int{r.alice.UserID: 100, said.p.UserID: 50},
	}, nil)
	r.hears(said, `{"body":"x","m.mentions":{"room":true}}`)
	r.want("bob may", 3, 1)
}
