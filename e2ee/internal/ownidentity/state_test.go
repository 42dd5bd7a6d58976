package ownidentity

import (
	"context"
	"errors"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// atRest is a host that is told of work to be done.
type atRest struct{ Host }

func (atRest) KickLocked() {}

// How the own state follows from what the homeserver shows (requirements 1.11, 2.10): the
// rows are its copy of the device, the columns the state of the own identity.
func TestOwnStateTable(t *testing.T) {
	t.Parallel()
	pins := []trustcache.Pin{
		{}, {Current: "A", PinnedMaster: "A"}, {Current: "B", PinnedMaster: "A"},
		{Current: "A", PinnedMaster: "A", Verified: true, WasVerified: true}, {Current: "B", PinnedMaster: "A", WasVerified: true},
	}
	algorithms := []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1}
	for _, tc := range []struct {
		name   string
		device *trustcache.Device
		want   [5]State // none, pinned, changed, verified, verification lost
	}{
		{"signed", &trustcache.Device{DeviceID: "D", Ed25519: "e", Curve25519: "c", Algorithms: algorithms, Signed: true}, [5]State{Signed, Signed, Changed, Signed, Changed}},
		{"not signed", &trustcache.Device{DeviceID: "D", Ed25519: "e", Curve25519: "c", Algorithms: algorithms}, [5]State{NoIdentity, Unsigned, Changed, Unsigned, Changed}},
		{"another Ed25519 key", &trustcache.Device{DeviceID: "D", Ed25519: "x", Curve25519: "c", Signed: true}, [5]State{Replaced, Replaced, Replaced, Replaced, Replaced}},
		{"another Curve25519 key", &trustcache.Device{DeviceID: "D", Ed25519: "e", Curve25519: "x", Signed: true}, [5]State{Replaced, Replaced, Replaced, Replaced, Replaced}},
		{"gone", nil, [5]State{}},
	} {
		for i, pin := range pins {
			own := &trustcache.User{UserID: "@a:x", Own: true, Knowledge: trustcache.KnowledgeFresh, Pin: pin}
			if tc.device != nil {
				own.Devices = []trustcache.Device{*tc.device}
			}
			env := &core.Env{}
			dev := &core.Device{Env: env, Self: core.Self{ID: "D", Ed25519: "e", Curve25519: "c"}}
			acct := NewAccount(&core.Account{Env: env, User: "@a:x"})
			o := New(dev, &acct, atRest{})
			o.state = Signed
			o.updateState(own, true)
			if o.state != tc.want[i] {
				t.Errorf("%s, identity %v: %d, want %d", tc.name, own.State(), o.state, tc.want[i])
			}
		}
	}
}

// Seen under load: a status that was asked for during a login began to ask for the own keys before
// they were uploaded, and was answered after. That is no loss of keys, which would be uploaded again.
func TestAnswerFromBeforeTheUpload(t *testing.T) {
	t.Parallel()
	env := &core.Env{}
	acct := NewAccount(&core.Account{Env: env, User: "@a:x"})
	o := New(&core.Device{Env: env, Self: core.Self{ID: "D", Ed25519: "e", Curve25519: "c"}}, &acct, atRest{})
	o.Record.Row.KeysUploaded = true
	without := &trustcache.User{UserID: "@a:x", Own: true, Knowledge: trustcache.KnowledgeFresh}
	for _, before := range []bool{true, false, true} {
		if o.updateState(without, !before); o.KeysTakenLocked() != before {
			t.Errorf("asked before the upload: %t, the homeserver has the keys: %t", before, o.KeysTakenLocked())
		}
		o.KeysWereTakenLocked()
	}
}

// ownRows are what is stored of the own user, and the rest of a store that has nothing.
type ownRows struct {
	trustcache.Store
	row store.User
}

func (r ownRows) Users(context.Context, *store.Account, []id.UserID) (map[id.UserID]store.User, error) {
	return map[id.UserID]store.User{r.row.UserID: r.row}, nil
}

func (ownRows) UserDevices(context.Context, *store.Account, []id.UserID) (map[id.UserID][]store.UserDevice, error) {
	return nil, nil
}

func (ownRows) Distrusts(context.Context, *store.Account, []id.UserID) (map[id.UserID][]store.UserDevice, error) {
	return nil, nil
}

func (ownRows) Save(context.Context, *store.Account, int64, *store.Changes) error { return nil }

// A recovery that began before the upload looks at what was known then, when it has found the keys.
func TestRecoveryFromBeforeTheUpload(t *testing.T) {
	t.Parallel()
	env := &core.Env{}
	tracker := trustcache.NewTracker(ownRows{row: store.User{UserID: "@a:x", Tracked: true}}, &store.Account{UserID: "@a:x"}, trustcache.Options{})
	t.Cleanup(tracker.Close)
	acct := NewAccount(&core.Account{Env: env, User: "@a:x", Tracker: tracker})
	o := New(&core.Device{Env: env, Self: core.Self{ID: "D", Ed25519: "e", Curve25519: "c"}}, &acct, atRest{})
	o.Record.Row.KeysUploaded = true
	own, err := tracker.Own(t.Context())
	if err != nil || own.Knowledge != trustcache.KnowledgeFresh {
		t.Fatal(own, err)
	}
	keys, err := identity.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.use(t.Context(), own, keys); !errors.Is(err, errIdentityNotShown) {
		t.Error(err)
	}
	if !o.KeysTakenLocked() {
		t.Error("the keys are uploaded again")
	}
}
