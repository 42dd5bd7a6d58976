package notices

import (
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// A notice is shown until the client syncs from the response that carried it, and again
// after an initial sync; one that belongs into no known room waits.
func TestWhenANoticeIsShown(t *testing.T) {
	t.Parallel()
	placed := Warning{ID: "w", RoomIDs: []id.RoomID{"!r:x"}}
	for name, tc := range map[string]struct {
		meta, since string
		w           Warning
		want        bool
	}{
		"never":                            {`{}`, "s1", placed, true},
		"the meta is unreadable":           {`7`, "s1", placed, true},
		"in a response that may be lost":   {`{"notices":{"w":"s2"}}`, "s1", placed, true},
		"in the response it syncs from":    {`{"notices":{"w":"s2"}}`, "s2", placed, false},
		"received long ago":                {`{"notices":{"w":"=s2"}}`, "s3", placed, false},
		"received, and an initial sync":    {`{"notices":{"w":"=s2"}}`, "", placed, true},
		"in no response, and initial sync": {`{"notices":{"w":""}}`, "", placed, true},
		"its room is not known":            {`{}`, "s1", Warning{ID: "w"}, false},
	} {
		s := NewShown(&core.Device{}, nil, nil)
		s.Load([]byte(tc.meta))
		if got := s.toShow(&tc.w, tc.since); got != tc.want {
			t.Errorf("%s: shown %v", name, got)
		}
	}
}

// Only the proxy may use the names of notices: no homeserver has them.
func TestNamesOfNotices(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		string(Sender): true, string(noticeID("w", "!r:x")): true,
		"@warnings:example.org": false, "@a:not-e2ee-proxy.invalid": false, "e2ee-proxy.invalid": false,
	} {
		if IsName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	if noticeID("w", "!r:x") == noticeID("w", "!other:x") || noticeID("w", "!r:x") == noticeID("v", "!r:x") {
		t.Error("two notices have one ID")
	}
}
