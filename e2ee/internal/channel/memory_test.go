package channel

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/trustcache"
)

// at returns a device's channels at a time that the test sets.
func at(now *time.Time) *Olm {
	o := New(&core.Device{Env: &core.Env{Now: func() time.Time { return *now }}}, nil, nil)
	return &o
}

// A device without one-time keys is told so once, and is asked again later and later; a step
// that is dropped has neither told it nor put it off.
func TestDevicesWithoutKeysAreToldOnce(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	o := at(&now)
	dev := &trustcache.Device{UserID: "@bob:x", DeviceID: "B"}
	if o.StageNoKeys(o.Begin(), dev) || o.HasNoKeys(dev) {
		t.Error("a step that was not stored counts")
	}
	for i, want := range []bool{false, true, true} {
		s := o.Begin()
		told := o.StageNoKeys(s, dev)
		s.ApplyToMemory()
		if told != want || !o.HasNoKeys(dev) {
			t.Errorf("time %d: told before %v, want %v; put off %v", i, told, want, o.HasNoKeys(dev))
		}
	}
	now = now.Add(core.KeylessPauses().Last + time.Second)
	if o.HasNoKeys(dev) {
		t.Error("it is put off for ever")
	}
	o.RememberNoKeys(dev)
	if o.MayHaveKeys(dev.UserID, dev.DeviceID); o.HasNoKeys(dev) || o.StageNoKeys(o.Begin(), dev) {
		t.Error("what it had before its new session is remembered")
	}
	for i := range 2 * maxNoKeys {
		o.RememberNoKeys(&trustcache.Device{UserID: id.UserID(fmt.Sprintf("@%d:x", i)), DeviceID: "D"})
	}
	if len(o.noKeys) > maxNoKeys {
		t.Errorf("%d devices are remembered", len(o.noKeys))
	}
}

// Of the devices that began a session those are kept that were given no key since, whatever
// began first, and no more than the bound.
func TestBegunSessionsAreKeptUntilAKeyIsGiven(t *testing.T) {
	t.Parallel()
	var now time.Time
	o := at(&now)
	o.CountBegun([]id.Curve25519{"given", "waits", "given", "earlier"})
	if o.Begun("given") != 2 || o.Begun("waits") != 1 || o.Begun("other") != 0 {
		t.Errorf("counted %v", o.begun)
	}
	given := func(begun map[id.Curve25519]int) map[id.Curve25519]bool {
		return map[id.Curve25519]bool{"given": begun["given"] == 2, "earlier": begun["earlier"] == 2}
	}
	if got := o.BegunToKeep(given); !slices.Equal(got, []id.Curve25519{"earlier", "waits"}) {
		t.Errorf("kept %v", got)
	}
	for i := range 2 * maxBegunKept {
		o.CountBegun([]id.Curve25519{id.Curve25519(fmt.Sprint(i))})
	}
	if got := o.BegunToKeep(given); len(got) != maxBegunKept {
		t.Errorf("%d are kept", len(got))
	}
}
