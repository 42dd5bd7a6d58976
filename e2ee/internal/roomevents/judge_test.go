package roomevents

import (
	"errors"
	"testing"

	"maunium.net/go/mautrix/event"

	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// The errors of decryption, and the codes that clients are told.
func TestRefusalTable(t *testing.T) {
	t.Parallel()
	ref := store.SessionRef{RoomID: "!r:x", SessionID: "s"}
	noted := map[store.SessionRef]store.WithheldNote{ref: {SessionRef: ref, Code: "m.unverified"}}
	for _, tc := range []struct {
		reference string
		err       error
		notes     map[store.SessionRef]store.WithheldNote
		want      trustcache.Code
		withheld  event.RoomKeyWithheldCode
	}{
		{"MissingRoomKey(None): MissingMegolmSession", roomkeys.ErrNoKey, nil, trustcache.CodeMissingRoomKey, ""},
		{"MissingRoomKey(code): MissingMegolmSession{withheld_code}", roomkeys.ErrNoKey, noted, trustcache.CodeWithheld, "m.unverified"},
		{"UnknownMessageIndex: UnknownMegolmMessageIndex", roomkeys.ErrTooEarly, nil, trustcache.CodeUnknownMessageIndex, ""},
		{"UnknownMessageIndex with a withheld record: MissingRoomKey(code)", roomkeys.ErrTooEarly, noted, trustcache.CodeWithheld, "m.unverified"},
		{"EventError, Decode: MalformedEncryptedEvent", strictjson.ErrMalformed, nil, trustcache.CodeMalformed, ""},
		{"other decryption: MegolmDecryptionFailure", roomkeys.ErrFailed, nil, trustcache.CodeMalformed, ""},
		{"other decryption: a withheld notice explains nothing", roomkeys.ErrFailed, noted, trustcache.CodeMalformed, ""},
		// The reference does not refuse a used index; the proxy does (requirement 8.4).
		{"-", roomkeys.ErrReplayed, nil, trustcache.CodeReplayed, ""},
		{"-", roomkeys.ErrReplayed, noted, trustcache.CodeReplayed, ""},
		// Something of ours failed: nothing is said of the event, and it is tried again.
		{"-", roomkeys.ErrOurs, nil, trustcache.CodeMissingRoomKey, ""},
		{"-", errors.New("anything else"), nil, trustcache.CodeMalformed, ""},
	} {
		code, withheld := (&eventJob{Event: roomkeys.Event{Ref: ref, Err: tc.err}}).refusal(tc.notes)
		if code != tc.want || withheld != tc.withheld {
			t.Errorf("%s: %v is %s %s, want %s %s", tc.reference, tc.err, code, withheld, tc.want, tc.withheld)
		}
	}
}
