package interceptors

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// nativeWorld makes a world of a client with keys of its own, from which these devices are
// hidden.
func nativeWorld(t *testing.T, hides map[id.UserID][]id.DeviceID) *world {
	t.Helper()
	w := newWorld(t, e2ee.ModeForeign)
	w.devices.native = &fakeNative{hides: hides}
	return w
}

func queryCall(body string) call {
	return call{handler: QueryKeys, method: http.MethodPost, pattern: "/keys/query", body: body}
}

func claimCall(body string) call {
	return call{handler: ClaimKeys, method: http.MethodPost, pattern: "/keys/claim", body: body}
}

func toDeviceCall(eventType, body string) call {
	return call{
		handler: SendToDevice, method: http.MethodPut, pattern: "/sendToDevice/{eventType}/{txnId}", body: body,
		params: map[string]string{"eventType": eventType, "txnId": "t1"}, maxBody: 16 << 20,
	}
}

// What a client with keys of its own is answered: hidden devices are taken out, and the rest
// is as it came, byte for byte.
func TestNativeAnswers(t *testing.T) {
	t.Parallel()
	const before = ` {"failures": {}, "device_keys" : { "@bob:hs" : {"A" : {"x":1.50}, "B":{"y":"\u00e9"} ,"C":{}},"@carol:hs":{"D":{}}, "@dan:hs":{}},"master_keys":{"@bob:hs":{"usage": ["master"]}},"org.new":[1]} `
	for name, tt := range map[string]struct {
		hides map[id.UserID][]id.DeviceID
		want  string
	}{
		"nothing":     {nil, before},
		"the first":   {map[id.UserID][]id.DeviceID{"@bob:hs": {"A"}}, strings.Replace(before, `{"A" : {"x":1.50}, "B"`, `{"B"`, 1)},
		"in between":  {map[id.UserID][]id.DeviceID{"@bob:hs": {"B"}}, strings.Replace(before, `, "B":{"y":"\u00e9"} ,"C"`, `,"C"`, 1)},
		"the last":    {map[id.UserID][]id.DeviceID{"@bob:hs": {"C"}}, strings.Replace(before, ` ,"C":{}}`, `}`, 1)},
		"all of bob":  {map[id.UserID][]id.DeviceID{"@bob:hs": {"A", "B", "C"}}, strings.Replace(before, `{"A" : {"x":1.50}, "B":{"y":"\u00e9"} ,"C":{}}`, `{}`, 1)},
		"of everyone": {map[id.UserID][]id.DeviceID{"@bob:hs": {"A", "B"}, "@carol:hs": {"D"}}, strings.Replace(strings.Replace(before, `{"A" : {"x":1.50}, "B":{"y":"\u00e9"} ,"C"`, `{"C"`, 1), `{"D":{}}, `, `{},`, 1)},
	} {
		w := nativeWorld(t, tt.hides)
		w.up.respond = func(seen) (int, string) { return 200, before }
		asks := `{"device_keys":{"@bob:hs":[],"@carol:hs":["D"],"@dan:hs":null}}`
		rec, err := w.do(queryCall(asks))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, rec.Body.String()); diff != "" && strings.Join(strings.Fields(rec.Body.String()), "") != strings.Join(strings.Fields(tt.want), "") {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := w.up.requests(); len(got) != 1 || got[0].body != asks || got[0].contentType != "application/x-of-the-client" {
			t.Errorf("%s: upstream got %+v", name, got)
		}
		n := w.devices.native
		if diff := cmp.Diff(map[id.UserID]bool{"@bob:hs": true, "@carol:hs": false, "@dan:hs": false}, n.whole); diff != "" || n.ended != 1 {
			t.Errorf("%s: ended %d, asked for all devices (-want +got):\n%s", name, n.ended, diff)
		}
		if len(n.answers) != 1 || string(n.answers[0].DeviceKeys["@bob:hs"]["A"]) != `{"x":1.50}` || string(n.answers[0].MasterKeys["@bob:hs"]) != `{"usage": ["master"]}` {
			t.Errorf("%s: the engine was given %+v", name, n.answers)
		}
	}
}

// Attack A26: a homeserver answers what can be read in more than one way, or in no way. The
// client is not given it.
func TestAnswersThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"a device twice":                `{"device_keys":{"@bob:hs":{"A":{},"A":{"x":1}}}}`,
		"a device twice, written other": `{"device_keys":{"@bob:hs":{"A":{},"\u0041":{"x":1}}}}`,
		"a user twice":                  `{"device_keys":{"@bob:hs":{},"@bob:hs":{"A":{}}}}`,
		"all devices twice":             `{"device_keys":{},"device_keys":{"@bob:hs":{"A":{}}}}`,
		"a key inside twice":            `{"device_keys":{"@bob:hs":{"A":{"keys":{"a":"1","a":"2"}}}}}`,
		"an identity twice":             `{"master_keys":{"@bob:hs":{},"@bob:hs":{}}}`,
		"a list of devices":             `{"device_keys":{"@bob:hs":[]}}`,
		"a list of users":               `{"device_keys":[]}`,
		"a list of identities":          `{"master_keys":[]}`,
		"something behind":              `{"device_keys":{}} {"device_keys":{"@bob:hs":{"A":{}}}}`,
		"no UTF-8":                      "{\"device_keys\":{\"@bob:hs\":{\"A\xff\":{}}}}",
		"no JSON":                       `<html>`,
		"nothing":                       ``,
	} {
		w := nativeWorld(t, nil)
		w.up.respond = func(seen) (int, string) { return 200, answer }
		rec, err := w.do(queryCall(`{}`))
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status != http.StatusBadGateway || rec.Body.Len() > 0 || len(w.devices.native.answers) > 0 {
			t.Errorf("%s: %v, %s", name, err, rec.Body)
		}
	}
	for status, answer := range map[int]string{401: `{"errcode":"M_UNKNOWN_TOKEN"}`, 500: `<html>`, 429: `{"errcode":"M_LIMIT_EXCEEDED"}`} {
		w := nativeWorld(t, nil)
		w.up.respond = func(seen) (int, string) { return status, answer }
		rec, err := w.do(queryCall(`{}`))
		if err != nil || rec.Code != status || rec.Body.String() != answer || w.devices.native.ended != 1 {
			t.Errorf("%d: %d %s, %v", status, rec.Code, rec.Body, err)
		}
	}
}

// One-time keys are claimed for those devices only that may be given something, so that those
// of the others are not used up.
func TestNativeClaims(t *testing.T) {
	t.Parallel()
	const all = `{"timeout":10000,"one_time_keys":{"@bob:hs":{"A":"signed_curve25519", "B":"signed_curve25519"},"@carol:hs":{"C":"signed_curve25519"}}}`
	for name, tt := range map[string]struct {
		hides  map[id.UserID][]id.DeviceID
		up     string // empty: nothing
		answer string
	}{
		"all may":  {nil, all, `{"event_id":"$event"}`},
		"one must": {map[id.UserID][]id.DeviceID{"@carol:hs": {"C"}}, strings.Replace(all, `,"@carol:hs":{"C":"signed_curve25519"}`, ``, 1), `{"event_id":"$event"}`},
		"others":   {map[id.UserID][]id.DeviceID{"@bob:hs": {"A"}}, strings.Replace(all, `"A":"signed_curve25519", `, ``, 1), `{"event_id":"$event"}`},
		"none may": {map[id.UserID][]id.DeviceID{"@bob:hs": {"A", "B"}, "@carol:hs": {"C"}}, ``, `{"failures":{},"one_time_keys":{}}`},
	} {
		w := nativeWorld(t, tt.hides)
		rec, err := w.do(claimCall(all))
		if err != nil || strings.Join(strings.Fields(rec.Body.String()), "") != tt.answer && rec.Body.String() != `{"one_time_keys":{},"failures":{}}` {
			t.Errorf("%s: %s, %v", name, rec.Body, err)
		}
		got := w.up.requests()
		if tt.up == "" && len(got) > 0 || tt.up != "" && (len(got) != 1 || got[0].body != tt.up) {
			t.Errorf("%s: upstream got %+v, want %s", name, got, tt.up)
		}
	}
}

// olm is a message that is encrypted with a key.
func olm(key string) string {
	return fmt.Sprintf(`{"algorithm":"m.olm.v1.curve25519-aes-sha2","sender_key":"s","ciphertext":{"%s":{"type":0,"body":"b"}}}`, key)
}

// What a client with keys of its own sends to devices: what is encrypted for a device that may
// not have it does not leave, and the client is told that it did.
func TestNativeMessagesToDevices(t *testing.T) {
	t.Parallel()
	all := `{"messages":{"@bob:hs":{"A":` + olm("a") + `,"B":` + olm("b") + `},"@carol:hs":{"C":` + olm("c") + `}}}`
	hidden := map[id.UserID][]id.DeviceID{"@bob:hs": {"B"}, "@carol:hs": {"C"}}
	w := nativeWorld(t, hidden)
	rec, err := w.do(toDeviceCall("m.room.encrypted", all))
	if err != nil || rec.Code != 200 {
		t.Fatalf("%d %s, %v", rec.Code, rec.Body, err)
	}
	want := seen{http.MethodPut, "/_matrix/client/v3/sendToDevice/m.room.encrypted/t1", "", `{"messages":{"@bob:hs":{"A":` + olm("a") + `}}}`, "application/json"}
	if diff := cmp.Diff([]seen{want}, w.up.requests(), cmp.AllowUnexported(seen{})); diff != "" {
		t.Errorf("upstream (-want +got):\n%s", diff)
	}
	to := []e2ee.NativeRecipient{
		{UserID: "@bob:hs", DeviceID: "A", Message: true, For: []string{"a"}},
		{UserID: "@bob:hs", DeviceID: "B", Message: true, For: []string{"b"}},
		{UserID: "@carol:hs", DeviceID: "C", Message: true, For: []string{"c"}},
	}
	if diff := cmp.Diff(to, w.devices.native.to); diff != "" {
		t.Errorf("the engine was asked for (-want +got):\n%s", diff)
	}

	// Nothing is left: the homeserver is not asked, twice.
	w = nativeWorld(t, map[id.UserID][]id.DeviceID{"@bob:hs": {"A", "B"}, "@carol:hs": {"C"}})
	for range 2 {
		if rec, err := w.do(toDeviceCall("m.room.encrypted", all)); err != nil || rec.Code != 200 || rec.Body.String() != `{}` {
			t.Errorf("%d %s, %v", rec.Code, rec.Body, err)
		}
	}
	w.wantNothingUpstream()

	// All may: it passes as it came.
	w = nativeWorld(t, nil)
	if _, err := w.do(toDeviceCall("m.room.encrypted", " "+all)); err != nil {
		t.Error(err)
	}
	if got := w.up.requests(); len(got) != 1 || got[0].body != " "+all || got[0].contentType != "application/x-of-the-client" {
		t.Errorf("upstream got %+v", got)
	}
}

// Attacks with what is sent to devices: a message for all devices at once, one that is
// encrypted for another device too, and bodies that can be read in more than one way.
func TestAttacksWithNativeMessages(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"for all devices": `{"messages":{"@bob:hs":{"A":` + olm("a") + `,"*":` + olm("b") + `}}}`,
		"a device twice":  `{"messages":{"@bob:hs":{"A":` + olm("a") + `,"A":` + olm("b") + `}}}`,
		"a user twice":    `{"messages":{"@bob:hs":{},"@bob:hs":{"A":` + olm("b") + `}}}`,
		"messages twice":  `{"messages":{},"messages":{"@bob:hs":{"A":` + olm("b") + `}}}`,
		"a list":          `{"messages":{"@bob:hs":["A"]}}`,
		"no JSON":         `messages`,
		"nothing":         ``,
		"too many":        `{"messages":{"@bob:hs":{` + manyDevices(50_001) + `}}}`,
	} {
		w := nativeWorld(t, nil)
		_, err := w.do(toDeviceCall("m.room.encrypted", body))
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.Status/100 != 4 {
			t.Errorf("%s: %v", name, err)
		}
		w.wantNothingUpstream()
	}
	for content, want := range map[string][]string{
		`{"ciphertext":{"a":{},"b":{}}}`: {"a", "b"}, `{"ciphertext":{}}`: {}, `{"ciphertext":"AwgA"}`: nil, `{}`: nil, `"text"`: nil, `null`: nil,
	} {
		w := nativeWorld(t, nil)
		if _, err := w.do(toDeviceCall("m.room.encrypted", `{"messages":{"@bob:hs":{"A":`+content+`}}}`)); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]e2ee.NativeRecipient{{UserID: "@bob:hs", DeviceID: "A", Message: true, For: want}}, w.devices.native.to); diff != "" {
			t.Errorf("%s (-want +got):\n%s", content, diff)
		}
	}
}

func manyDevices(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`"D%d":{}`, i)
	}
	return strings.Join(all, ",")
}

// 12,000 devices of 5,000 users are no attack.
func TestManyNativeRecipients(t *testing.T) {
	t.Parallel()
	var users []string
	for i := range 5000 {
		users = append(users, fmt.Sprintf(`"@user%d:hs":{"A":"x","B":"x"%s}`, i, map[bool]string{true: `,"C":"x"`}[i < 2000]))
	}
	w := nativeWorld(t, map[id.UserID][]id.DeviceID{"@user7:hs": {"B"}})
	c := claimCall(`{"one_time_keys":{` + strings.Join(users, ",") + `}}`)
	c.maxBody = 16 << 20
	if _, err := w.do(c); err != nil || len(w.devices.native.to) != 12000 {
		t.Errorf("%d devices, %v", len(w.devices.native.to), err)
	}
	users[7] = `"@user7:hs":{"A":"x","C":"x"}`
	if got := w.up.requests(); len(got) != 1 || got[0].body != `{"one_time_keys":{`+strings.Join(users, ",")+`}}` {
		t.Error("the homeserver got something else")
	}
}

// Keys and secrets leave encrypted or not at all; what is no key passes as it came, also with
// a device that stands for all.
func TestKeysToDevicesInClear(t *testing.T) {
	t.Parallel()
	body := `{"messages":{"@bob:hs":{"*":{"session_key":"` + canary + `"}}}}`
	for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeLost} {
		for _, eventType := range []string{"m.room_key", "m.forwarded_room_key", "m.secret.send", "m.room_key_bundle", "io.element.msc4268.room_key_bundle"} {
			w := nativeWorld(t, nil)
			w.dev.mode = mode
			_, err := w.do(toDeviceCall(eventType, body))
			wantError(t, err, http.StatusForbidden, apierr.CodeClearText)
			w.wantNothingUpstream()
			w.devices.native.clear = true // policy.native: warn
			if _, err := w.do(toDeviceCall(eventType, body)); err != nil || len(w.up.requests()) != 1 {
				t.Errorf("%s on warn: %v", eventType, err)
			}
		}
	}
	for _, eventType := range []string{
		"m.key.verification.request", "m.key.verification.mac", "m.room_key_request", "m.secret.request", "m.room_key.withheld",
		"org.matrix.room_key.withheld", "m.dummy", "org.example.own",
	} {
		w := nativeWorld(t, map[id.UserID][]id.DeviceID{"@bob:hs": {"*"}})
		if _, err := w.do(toDeviceCall(eventType, body)); err != nil {
			t.Errorf("%s: %v", eventType, err)
		}
		if got := w.up.requests(); len(got) != 1 || got[0].body != body || len(w.devices.native.to) > 0 {
			t.Errorf("%s: upstream got %+v", eventType, got)
		}
	}
}

// With policy.native off, everything passes as it is.
func TestNativeOff(t *testing.T) {
	t.Parallel()
	for _, c := range []call{
		queryCall(`{`), claimCall(`[]`), toDeviceCall("m.room.encrypted", `{"messages":{"@bob:hs":{"*":{}}}}`),
		toDeviceCall("m.room_key", `{}`), sendCall(encryptedRoom, "m.room.encrypted", `{ "ciphertext":"theirs","algorithm":"m.new" }`),
	} {
		w := newWorld(t, e2ee.ModeForeign)
		w.up.respond = func(seen) (int, string) { return 200, `any answer` }
		rec, err := w.do(c)
		if got := w.up.requests(); err != nil || len(got) != 1 || got[0].body != c.body || rec.Body.String() != "any answer" {
			t.Errorf("%s: %v, upstream got %+v", c.handler, err, got)
		}
	}
}

// Nothing is given when the engine cannot decide.
func TestNativeCannotTell(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"no answer":          {e2ee.ErrCannotEncrypt, http.StatusServiceUnavailable, apierr.CodeCannotEncrypt},
		"a changed identity": {&e2ee.IdentityChangedError{Users: []id.UserID{bob}}, http.StatusForbidden, apierr.CodeIdentityChanged},
		"a rule":             {&e2ee.RuledError{Users: []id.UserID{bob}, Rule: "r", Reason: "Not for bob."}, http.StatusForbidden, apierr.CodeDeniedByRule},
		"a dead token":       {&e2ee.UpstreamError{Status: 401, ErrCode: "M_UNKNOWN_TOKEN"}, http.StatusUnauthorized, apierr.CodeUnknownToken},
	} {
		for _, c := range []call{
			claimCall(`{"one_time_keys":{"@bob:hs":{"A":"x"}}}`), toDeviceCall("m.room.encrypted", `{"messages":{"@bob:hs":{"A":`+olm("a")+`}}}`),
			sendCall(encryptedRoom, "m.room.encrypted", `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"theirs","session_id":"s"}`),
		} {
			w := nativeWorld(t, nil)
			w.devices.native.err = tt.err
			_, err := w.do(c)
			e := shown(t, err, tt.status, tt.code)
			if c.handler == Send && tt.status != http.StatusUnauthorized && !strings.Contains(e.Public(), "not sent") {
				t.Errorf("%s: %q", name, e.Public())
			}
			w.wantNothingUpstream()
		}
	}
}

// The session of an event that the homeserver has accepted is told to the engine, of devices
// with keys of their own and of tokens without a device, and of no others.
func TestNativeSessions(t *testing.T) {
	t.Parallel()
	const body = `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"theirs","session_id":"S"}`
	for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone} {
		w := nativeWorld(t, nil)
		w.dev.mode = mode
		answers := []string{`{"event_id":"$1"}`, `{"errcode":"M_FORBIDDEN"}`, `{"delay_id":"1"}`, `{"event_id":"$2"}`, `{"event_id":"$3"}`}
		statuses := []int{200, 403, 200, 200, 200}
		bodies := []string{body, body, body, `{"algorithm":"m.new","ciphertext":"theirs","session_id":"T"}`, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"theirs"}`}
		for i := range answers {
			w.up.respond = func(seen) (int, string) { return statuses[i], answers[i] }
			rec, err := w.do(sendCall(encryptedRoom, "m.room.encrypted", bodies[i]))
			if err != nil || rec.Code != statuses[i] || rec.Body.String() != answers[i] {
				t.Errorf("%d %s, %v", rec.Code, rec.Body, err)
			}
		}
		if diff := cmp.Diff([]string{encryptedRoom.String() + " S", encryptedRoom.String() + " "}, w.devices.native.sent); diff != "" {
			t.Errorf("%s (-want +got):\n%s", mode, diff)
		}
	}
}

// A client with keys of its own cannot weaken the encryption of a room, by any name of a
// weaker one; it may encrypt a plain room with whatever it knows.
func TestNativeCannotWeakenEncryption(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		room    id.RoomID
		content string
		passes  bool
	}{
		{encryptedRoom, `{}`, false},
		{encryptedRoom, `{"algorithm":""}`, false},
		{encryptedRoom, `{"algorithm":"m.none"}`, false},
		{encryptedRoom, `{"algorithm":["m.megolm.v1.aes-sha2"]}`, false},
		{encryptedRoom, `{"algorithm":"m.none","algorithm":"m.megolm.v1.aes-sha2"}`, false},
		{encryptedRoom, encryptionContent, true},
		{encryptedRoom, `{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_msgs":10}`, true},
		{unsupportedRoom, `{}`, false},
		{unsupportedRoom, `{"algorithm":"m.newer"}`, true},
		{unknownRoom, `{"algorithm":"m.new"}`, false},
		{plainRoom, `{"algorithm":"m.new"}`, true},
		{plainRoom, `{}`, true},
	} {
		w := nativeWorld(t, nil)
		_, err := w.do(stateCall(tt.room, typeEncryption, "", tt.content))
		if got := w.up.requests(); (err == nil) != tt.passes || (len(got) == 1) != tt.passes {
			t.Errorf("%s into %s: %v, upstream %+v", tt.content, tt.room, err, got)
		}
		loose := withNativeClearText(t, e2ee.ModeForeign)
		if _, err := loose.do(stateCall(tt.room, typeEncryption, "", tt.content)); err != nil {
			t.Errorf("with policy.native_clear_text pass, %s into %s: %v", tt.content, tt.room, err)
		}
	}
}
