package trustcache

import "testing"

// Who may get the history of a room, and from whom a bundle of its keys is taken: only devices
// that the owner's accepted identity has signed (requirements 17.5, 17.7). No exception and no
// policy is asked.
func TestHistoryTable(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		state     PinState
		device    Device
		get, give bool
	}{
		"signed, pinned":              {PinPinned, plainDevice(true), true, true},
		"signed, verified":            {PinVerified, plainDevice(true), true, true},
		"signed, identity changed":    {PinChanged, plainDevice(true), false, false},
		"signed, verification lost":   {PinVerificationLost, plainDevice(true), false, false},
		"unsigned":                    {PinPinned, plainDevice(false), false, false},
		"unsigned, verified":          {PinVerified, plainDevice(false), false, false},
		"unsigned, with an exception": {PinPinned, plainDevice(false, trusted), false, false},
		"signed, distrusted":          {PinPinned, plainDevice(true, distrusted), false, false},
		"signed, with an exception":   {PinPinned, plainDevice(true, trusted), true, true},
		"signed, wants nothing":       {PinPinned, plainDevice(true, unwilling), false, true},
		"signed, unusable":            {PinPinned, plainDevice(true, faulty(FaultSharedKey)), false, false},
		"signed, dehydrated":          {PinPinned, plainDevice(true, dehydrated), true, false},
		"signed by no identity":       {PinNone, plainDevice(true), false, false},
	} {
		u := in(bob, tt.state, tt.device)
		if got := MayGetHistory(u, &u.Devices[0]); got != tt.get {
			t.Errorf("%s: may get history: %t", name, got)
		}
		from := Owner{UserID: bob, Curve25519: tt.device.Curve25519, Ed25519: tt.device.Ed25519}
		if got := MayGiveHistory(from, u); got != tt.give {
			t.Errorf("%s: may give history: %t", name, got)
		}
	}
	u, other := in(bob, PinPinned, plainDevice(true)), plainDevice(true)
	other.UserID = carol
	if MayGetHistory(nil, &other) || MayGetHistory(u, nil) || MayGetHistory(u, &other) || MayGiveHistory(Owner{}, nil) || MayGiveHistory(Owner{UserID: carol}, u) {
		t.Error("nobody, or another's device, may")
	}
}
