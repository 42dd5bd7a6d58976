package interceptors

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
)

// talkedRoom is a control room in which something was said.
type talkedRoom struct {
	exchange.ControlRoom
	view *e2ee.ControlView
}

func (talkedRoom) On() bool { return true }

func (r talkedRoom) View(context.Context) (*e2ee.ControlView, error) { return r.view, nil }

type talkedDevice struct {
	*readDevice
	room talkedRoom
}

func (d *talkedDevice) ControlRoom() exchange.ControlRoom { return d.room }

// A search in the control room finds what was said there, and in no case does the homeserver hear
// of that room or of what is looked for in it: alone, beside other rooms, somebody else's, left,
// or as a joined room that a lying homeserver names.
func TestSearchInTheControlRoom(t *testing.T) {
	t.Parallel()
	own, other := e2ee.ControlRoomOf(alice), e2ee.ControlRoomOf("@carol:hs")
	said := func(seq int64, mine bool, text string) e2ee.ControlLine {
		return e2ee.ControlLine{Seq: seq, ID: id.EventID("$" + text[:4]), Type: "m.room.message", Mine: mine, Content: e2ee.ControlText(text)}
	}
	for name, tc := range map[string]struct {
		more string
		left bool
		want []string
		up   bool
	}{
		"alone":            {more: `,"filter":{"rooms":["` + own.String() + `"]}`, want: []string{"$new ", "$old "}},
		"what others said": {more: `,"filter":{"rooms":["` + own.String() + `"],"senders":["@control:e2ee-proxy.invalid"]}`, want: []string{"$new "}},
		"one":              {more: `,"filter":{"rooms":["` + own.String() + `"],"limit":1}`, want: []string{"$new "}},
		"excluded":         {more: `,"filter":{"rooms":["` + own.String() + `"],"not_rooms":["` + own.String() + `"]}`},
		"left":             {more: `,"filter":{"rooms":["` + own.String() + `"]}`, left: true},
		"somebody else's":  {more: `,"filter":{"rooms":["` + other.String() + `"]}`},
		"beside another":   {more: `,"filter":{"rooms":["` + own.String() + `","` + plainRoom.String() + `"]}`, want: []string{"$e"}, up: true},
		"everywhere":       {want: []string{"$e"}, up: true},
	} {
		w := searchWorld(t, e2ee.ModeProxied, plainRoom, own)
		record := &e2ee.ControlRecord{Opened: 1, Left: tc.left, Last: 3, Lines: []e2ee.ControlLine{said(1, true, "old "+canary), said(2, false, "x nothing"), said(3, false, "new "+canary)}}
		w.replaced = readDevices{w.devices, &talkedDevice{&readDevice{fakeDevice: w.dev}, talkedRoom{view: &e2ee.ControlView{Room: record, User: alice}}}}
		rec, err := w.do(searchCall(tc.more))
		if err != nil || rec.Code != 200 || !json.Valid(rec.Body.Bytes()) {
			t.Fatalf("%s: %d %v %s", name, rec.Code, err, rec.Body)
		}
		if _, got, _, _ := found(t, rec.Body.String()); !slices.Equal(got, tc.want) {
			t.Errorf("%s: found %q in %s", name, got, rec.Body)
		}
		asked := false
		for _, s := range w.up.requests() {
			asked = asked || strings.HasSuffix(s.path, "/search")
			if strings.Contains(s.path+s.query+s.body, "e2ee-proxy.invalid") || strings.Contains(s.body, canary) != strings.HasSuffix(s.path, "/search") {
				t.Errorf("%s: the homeserver got %+v", name, s)
			}
		}
		if asked != tc.up {
			t.Errorf("%s: the homeserver was asked: %v", name, asked)
		}
	}
}
