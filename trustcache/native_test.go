package trustcache

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"
)

// nativeCell is what becomes of a device in a mode, with what enforcing would do when that is
// another thing.
func nativeCell(d NativeDecision) string {
	words := map[NativeOutcome]string{NativeHide: "hidden", NativeShow: "shown"}
	if d.Outcome != d.Enforced {
		return words[d.Outcome] + " against the policy"
	}
	return words[d.Outcome]
}

// The whole table of decisions about devices and clients with keys of their own.
func TestNativeTable(t *testing.T) {
	t.Parallel()
	const hid, show, against = "hidden", "shown", "shown against the policy"
	for name, c := range map[string]struct {
		user               *User
		device             *Device
		enforce, warn, off string
	}{
		"signed":                        {in(bob, PinPinned), new(plainDevice(true)), show, show, show},
		"signed, verified":              {in(bob, PinVerified), new(plainDevice(true)), show, show, show},
		"signed, changed":               {in(bob, PinChanged), new(plainDevice(true)), show, show, show},
		"signed, verification lost":     {in(bob, PinVerificationLost), new(plainDevice(true)), show, show, show},
		"unsigned":                      {in(bob, PinPinned), new(plainDevice(false)), hid, against, show},
		"no identity":                   {in(bob, PinNone), new(plainDevice(false)), hid, against, show},
		"no identity, said to be":       {in(bob, PinNone), new(plainDevice(true)), hid, against, show},
		"trusted":                       {in(bob, PinPinned), new(plainDevice(false, trusted)), show, show, show},
		"trusted, no identity":          {in(bob, PinNone), new(plainDevice(false, trusted)), show, show, show},
		"distrusted":                    {in(bob, PinPinned), new(plainDevice(true, distrusted)), hid, hid, show},
		"dehydrated":                    {in(bob, PinPinned), new(plainDevice(true, dehydrated)), show, show, show},
		"dehydrated, unsigned":          {in(bob, PinPinned), new(plainDevice(false, dehydrated)), hid, against, show},
		"dehydrated, unsigned, trusted": {in(bob, PinPinned), new(plainDevice(false, dehydrated, trusted)), hid, against, show},
		"shared key":                    {in(bob, PinPinned), new(plainDevice(true, faulty(FaultSharedKey))), hid, against, show},
		"named like an identity key":    {in(bob, PinPinned), new(plainDevice(true, trusted, faulty(FaultIdentityKey))), hid, against, show},
		"without keys":                  {in(bob, PinPinned), &Device{UserID: bob, DeviceID: "PHONE", Signed: true}, hid, against, show},
		"of somebody else":              {in(carol, PinPinned), new(plainDevice(true)), hid, against, show},
		"not known":                     {in(bob, PinPinned), nil, hid, against, show},
		"of whom nothing is known":      {&User{UserID: bob}, new(plainDevice(true)), hid, against, show},
		"of nobody":                     {nil, nil, hid, against, show},
	} {
		got := []string{}
		for _, mode := range []Mode{ModeEnforce, ModeWarn, ModeOff} {
			got = append(got, nativeCell(Native(c.user, c.device, mode)))
		}
		if diff := cmp.Diff([]string{c.enforce, c.warn, c.off}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if d := Native(c.user, c.device, Mode(7)); d != (NativeDecision{}) || d.Outcome != NativeHide {
			t.Errorf("%s, in a mode that is none: %+v", name, d)
		}
	}
}

// Whether a client with keys of its own may send to somebody whose identity changed.
func TestNativeGate(t *testing.T) {
	t.Parallel()
	me := in(alice, PinChanged)
	me.Own = true
	for state, waits := range map[PinState]bool{PinNone: false, PinPinned: false, PinVerified: false, PinChanged: true, PinVerificationLost: true} {
		for _, mode := range []Mode{ModeEnforce, ModeWarn, ModeOff, Mode(7)} {
			for _, changes := range []NativeChanges{NativeChangesWarn, NativeChangesBlock, NativeChanges(7)} {
				got := NativeGate([]*User{me, in(bob, state), nil, {UserID: carol}}, mode, changes)
				would := waits && mode != ModeOff && changes != NativeChangesWarn
				if (got.Enforced == GateBlocked) != would || (got.Outcome == GateBlocked) != (would && mode != ModeWarn) {
					t.Errorf("%s, mode %d, changes %d: %+v", state, mode, changes, got)
				}
				if would && (len(got.Blocked) != 1 || got.Blocked[0].UserID != bob) {
					t.Errorf("%s: blocked by %+v", state, got.Blocked)
				}
			}
		}
	}
}

// clientAnswer has a client of alice's ask about users, and returns what it is not shown.
func (x *tracking) clientAnswer(edit func(*QueryResult), users ...id.UserID) []string {
	x.t.Helper()
	q := x.BeginClientQuery(false)
	defer q.End()
	res, err := x.srv.reply(users)
	if err != nil {
		x.t.Fatal(err)
	}
	if edit != nil {
		edit(res)
	}
	return x.answered(q, res)
}

func (x *tracking) answered(q *ClientQuery, res *QueryResult) []string {
	x.t.Helper()
	view, err := q.Answered(x.t.Context(), res, func(id.UserID) bool { return true }, ModeEnforce)
	if err != nil {
		x.t.Fatal(err)
	}
	hidden := []string{}
	for user, devices := range view.Hidden {
		for _, device := range devices {
			hidden = append(hidden, fmt.Sprintf("%s %s", user, device))
		}
	}
	slices.Sort(hidden)
	return hidden
}

// What a lying homeserver answers a client with keys of its own: only devices that their
// owner's identity has signed, in that very answer, are left.
func TestAttacksOnAnswersToNativeClients(t *testing.T) {
	t.Parallel()
	b, c := newPerson(bob, "1"), newPerson(carol, "1")
	evil := newPerson(bob, "evil")
	phone := b.signedDevice("PHONE")
	all := []string{"@bob:example.org PHONE", "@bob:example.org TABLET"}
	for name, tt := range map[string]struct {
		lie    func(*QueryResult)
		hidden []string
	}{
		"the truth": {func(*QueryResult) {}, []string{"@bob:example.org TABLET"}},
		"a signature of the wrong bytes": {func(r *QueryResult) {
			changed := b.signedDevice("PHONE")
			changed["algorithms"] = []id.Algorithm{id.AlgorithmMegolmV1, id.AlgorithmOlmV1}
			r.DeviceKeys[bob]["PHONE"] = changed.raw()
		}, all},
		"a device that another's self-signing key signed": {func(r *QueryResult) {
			r.DeviceKeys[bob]["TABLET"] = b.device("TABLET").sign(bob, c.selfSign.public.String(), c.selfSign).raw()
		}, []string{"@bob:example.org TABLET"}},
		"another's self-signing key under bob's entry": {func(r *QueryResult) {
			r.SelfSigningKeys[bob] = r.SelfSigningKeys[carol]
		}, all},
		"a self-signing key that the master key has not signed": {func(r *QueryResult) {
			r.SelfSigningKeys[bob] = b.bySelf(b.selfSigningFields(), c.master)
		}, all},
		"a master key that is replaced in the answer": {func(r *QueryResult) {
			r.MasterKeys[bob] = evil.masterFields().raw()
		}, all},
		"an identity that is left out":        {func(r *QueryResult) { delete(r.MasterKeys, bob); delete(r.SelfSigningKeys, bob) }, all},
		"a self-signing key that is left out": {func(r *QueryResult) { delete(r.SelfSigningKeys, bob) }, all},
		"another identity that signed the unsigned device, and the old one's device": {func(r *QueryResult) {
			r.MasterKeys[bob], r.SelfSigningKeys[bob] = evil.masterFields().raw(), evil.bySelf(evil.selfSigningFields(), evil.master)
			r.DeviceKeys[bob]["TABLET"] = evil.signedDevice("TABLET").raw()
		}, []string{"@bob:example.org PHONE"}},
		"a device of carol's under bob's entry": {func(r *QueryResult) {
			r.DeviceKeys[bob]["TABLET"] = r.DeviceKeys[carol]["LAPTOP"]
		}, []string{"@bob:example.org TABLET"}},
		"a device under another ID": {func(r *QueryResult) {
			r.DeviceKeys[bob]["TABLET"] = phone.raw()
		}, []string{"@bob:example.org TABLET"}},
		"a signed device with the keys of another": {func(r *QueryResult) {
			r.DeviceKeys[bob]["COPY"] = deviceFields(bob, "COPY", "@bob:example.org PHONE").sign(bob, b.selfSign.public.String(), b.selfSign).raw()
		}, append([]string{"@bob:example.org COPY"}, all...)},
		"a living device with other keys": {func(r *QueryResult) {
			r.DeviceKeys[bob]["TABLET"] = deviceFields(bob, "TABLET", "others").raw()
		}, []string{"@bob:example.org TABLET"}},
		"names that occur twice": {func(r *QueryResult) {
			r.DeviceKeys[bob]["PHONE"] = append([]byte(`{"device_id":"PHONE",`), phone.raw()[1:]...)
		}, all},
		"a device of a user whose ID nobody can have": {func(r *QueryResult) {
			r.DeviceKeys["bob"] = map[id.DeviceID]json.RawMessage{"X": phone.raw()}
		}, []string{"@bob:example.org TABLET", "bob X"}},
		"no device at all": {func(r *QueryResult) { r.DeviceKeys[bob]["TABLET"] = json.RawMessage(`null`) }, []string{"@bob:example.org TABLET"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, before := range []bool{false, true} { // what is known from before changes nothing
				srv := newServer()
				srv.publish(b, phone, b.device("TABLET"))
				srv.publish(c, c.signedDevice("LAPTOP"))
				x := track(t, srv, newMemory())
				if before {
					x.clientAnswer(nil, bob, carol)
				}
				if diff := cmp.Diff(tt.hidden, x.clientAnswer(tt.lie, bob, carol)); diff != "" {
					t.Errorf("known before: %t (-want +got):\n%s", before, diff)
				}
			}
		})
	}
}
