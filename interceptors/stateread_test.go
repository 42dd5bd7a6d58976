package interceptors

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

const (
	stateEncryption = `{"type":"m.room.encryption","state_key":"","content":{"algorithm":"m.megolm.v1.aes-sha2"}}`
	stateName       = `{"type":"m.room.name","state_key":"","content":{"name":"m.room.encryption"}}`
)

// A client that the proxy encrypts for finds no m.room.encryption where it reads a room's
// state, and everything else as it is. A client with keys of its own, and one whose
// administrator wants it shown, find everything.
func TestReadStateHidesEncryption(t *testing.T) {
	t.Parallel()
	const one, key, list = "/rooms/{roomId}/state/{eventType}", "/rooms/{roomId}/state/{eventType}/{stateKey}", "/rooms/{roomId}/state"
	const notFound = `404 M_NOT_FOUND`
	for name, test := range map[string]struct {
		pattern, eventType, stateKey string
		mode                         e2ee.Mode
		show                         bool
		status                       int // of the homeserver
		answer                       string
		want                         string // its own answer when empty
	}{
		"encryption":                 {pattern: one, eventType: "m.room.encryption", answer: `{"algorithm":"x"}`, want: notFound},
		"encryption, by key":         {pattern: key, eventType: "m.room.encryption", answer: `{"algorithm":"x"}`, want: notFound},
		"another key":                {pattern: key, eventType: "m.room.encryption", stateKey: "x", answer: `{"algorithm":"x"}`},
		"another type":               {pattern: one, eventType: "m.room.name", answer: `{"name":"x"}`},
		"a room that is not for you": {pattern: one, eventType: "m.room.encryption", status: 403, answer: `{"errcode":"M_FORBIDDEN"}`},
		"shown":                      {pattern: one, eventType: "m.room.encryption", show: true, answer: `{"algorithm":"x"}`},
		"keys of its own":            {pattern: one, eventType: "m.room.encryption", mode: e2ee.ModeForeign, answer: `{"algorithm":"x"}`},
		"no device":                  {pattern: one, eventType: "m.room.encryption", mode: e2ee.ModeNone, answer: `{"algorithm":"x"}`},

		"list":                  {pattern: list, answer: `[` + stateName + `, ` + stateEncryption + ` ,` + stateName + `]`, want: `[` + stateName + ` ,` + stateName + `]`},
		"list, first":           {pattern: list, answer: `[` + stateEncryption + `,` + stateName + `]`, want: `[` + stateName + `]`},
		"list, last":            {pattern: list, answer: `[` + stateName + `,` + stateEncryption + `]`, want: `[` + stateName + `]`},
		"list, alone":           {pattern: list, answer: ` [` + stateEncryption + `]`, want: ` []`},
		"list, more than once":  {pattern: list, answer: `[` + stateEncryption + `,` + stateEncryption + `,` + stateName + `,` + stateEncryption + `]`, want: `[` + stateName + `]`},
		"list, escaped":         {pattern: list, answer: `[{"\u0074ype":"m.room.\u0065ncryption","content":{}},` + stateName + `]`, want: `[` + stateName + `]`},
		"list, nothing to hide": {pattern: list, answer: ` [ ` + stateName + ` ] `},
		"list, empty":           {pattern: list, answer: `[]`},
		"list, no list":         {pattern: list, answer: `{"type":"m.room.encryption"}`},
		"list, refused":         {pattern: list, status: 403, answer: `{"errcode":"M_FORBIDDEN"}`},
		"list, shown":           {pattern: list, show: true, answer: `[` + stateEncryption + `]`},
		"list, keys of its own": {pattern: list, mode: e2ee.ModeForeign, answer: `[` + stateEncryption + `]`},
		"list, not JSON":        {pattern: list, answer: `[` + stateName, want: `502 M_UNKNOWN`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.mode == e2ee.ModeUnknown {
				test.mode = e2ee.ModeProxied
			}
			if test.status == 0 {
				test.status = http.StatusOK
			}
			w := newWorld(t, test.mode)
			var err error
			if w.handlers, err = Handlers(Options{Sync: SyncOptions{ShowEncryptionState: test.show}}); err != nil {
				t.Fatal(err)
			}
			w.up.respond = func(seen) (int, string) { return test.status, test.answer }
			c := call{handler: StateGet, method: "GET", pattern: test.pattern, params: map[string]string{"roomId": "!elsewhere:x", "eventType": test.eventType, "stateKey": test.stateKey}}
			if test.pattern == list {
				c.handler = StateList
			}
			rec, err := w.do(c)
			got := rec.Body.String()
			if said, ok := errors.AsType[*apierr.Error](err); ok {
				got = said.Error()
			} else if err != nil || rec.Code != test.status {
				t.Fatalf("%d, %v", rec.Code, err)
			}
			want := test.want
			if want == "" {
				want = test.answer
			}
			if got != want && (err == nil || !strings.HasPrefix(got, want)) {
				t.Errorf("got %s, want %s", got, want)
			}
			if n := len(w.up.requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}
