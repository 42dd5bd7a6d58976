package interceptors

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// What matters to the numbers of unread messages is read from what was noted of an event as it is
// from the event itself.
func FuzzUnreadHead(f *testing.F) {
	for _, s := range []string{
		`{"event_id":"$a","origin_server_ts":1432735824653,"unsigned":{"membership":"join","prev_content":{"membership":"join"}}}`,
		`{"event_id":"$a","redacts":"$b","content":{"redacts":"$c"}}`, `{"content":{"redacts":"$c"},"redacts":"$b"}`, `{"redacts":7,"content":{"redacts":""}}`,
		`{"redacts":"$b","redacts":"$c"}`, `{"event_id":"$\u0061","content":{"m.relates_to":{"rel_type":"m.thread","event_id":"$t"}}}`,
		`{"content":{"m.relates_to":{"event_id":"$t"}},"content":{"m.relates_to":{"rel_type":"m.thread"}}}`, `{"unsigned":{"membership":null}}`,
		`{"content":{"m.relates_to":{"event_id":["$t"]}}}`, `{"origin_server_ts":-1}`, `{"origin_server_ts":1e9,"event_id":{}}`, `7`, `[]`,
	} {
		f.Add([]byte(s))
	}
	rewriter := rewrite.New(rewrite.Shape{
		Room: rewrite.RoomOfPath, Inside: unreadPaths[:], Places: []rewrite.Place{{Path: "*"}},
	}, rewrite.Options{})
	type outcome struct {
		event e2ee.UnreadEvent
		to    e2ee.UnreadRelation
		stays bool
		gone  int
	}
	f.Fuzz(func(t *testing.T, event []byte) {
		read := func(e *rewrite.Event) error {
			for _, redaction := range []bool{true, false} {
				var got, want unreadHead
				var a, b outcome
				a.event, a.to, a.stays = got.head(e, redaction)
				if err := want.scan(e.Raw); err != nil {
					t.Fatal(err)
				}
				b.event, b.to, b.stays = want.read(redaction)
				if a.gone, b.gone = len(got.gone), len(want.gone); a != b || !sameIDs(got.gone, want.gone) {
					t.Errorf("%s (-want +got):\n%s", e.Raw, cmp.Diff(b, a, cmp.AllowUnexported(outcome{})))
				}
			}
			return nil
		}
		body, err := rewriter.Read(bytes.NewReader(append(append([]byte(`[`), event...), ']')), rewrite.Pass{Hooks: rewrite.Hooks{Event: read}})
		if err != nil {
			return // it is no JSON
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	})
}

// sameIDs compares two lists whatever their order.
func sameIDs(a, b []id.EventID) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
