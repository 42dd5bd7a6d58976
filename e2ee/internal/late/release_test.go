package late

import (
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// What becomes known of a user has the events judged again that wait for it; a device that
// was removed, or was never taken, changes nothing for them.
func TestWhatReleasesEvents(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		ev   trustcache.Event
		want bool
	}{
		{"a new device", trustcache.Event{Kind: trustcache.EventDevices, Added: []id.DeviceID{"B"}}, true},
		{"a device was signed", trustcache.Event{Kind: trustcache.EventDevices, Signed: []id.DeviceID{"B"}}, true},
		{"a device was removed", trustcache.Event{Kind: trustcache.EventDevices, Removed: []id.DeviceID{"B"}}, false},
		{"another pin", trustcache.Event{Kind: trustcache.EventPin}, true},
		{"an exception", trustcache.Event{Kind: trustcache.EventOverride}, true},
		{"devices that were refused", trustcache.Event{Kind: trustcache.EventDevicesRefused}, false},
		{"an identity that was refused", trustcache.Event{Kind: trustcache.EventIdentityRefused}, false},
	} {
		tc.ev.UserID = "@bob:x"
		ch := &store.Changes{}
		if got := Release([]trustcache.Event{tc.ev, tc.ev}, ch); got != tc.want || len(ch.ReadyPendingFrom) > 1 || (len(ch.ReadyPendingFrom) == 1) != tc.want {
			t.Errorf("%s: %v, %v", tc.name, got, ch.ReadyPendingFrom)
		}
	}
}

// The events that a homeserver bundled with one that waits are older, when it is shown at
// last, than what the client knows of them: they go, and everything else stays as it came.
func TestBundledEventsDoNotWait(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"a":1,"unsigned":{"age":5,"m.relations":{"m.replace":{}}}}`: `{"a":1,"unsigned":{"age":5}}`,
		`{"a":1,"unsigned":{"age":5}}`:                                `{"a":1,"unsigned":{"age":5}}`,
		`{"a":1}`:                                                     `{"a":1}`,
		`{"a":1,"a":2}`:                                               `{"a":1,"a":2}`,
	} {
		if got := string(withoutRelations([]byte(in))); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}
