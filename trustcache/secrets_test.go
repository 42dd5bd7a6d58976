package trustcache

import "testing"

// Who may hold secrets, device by device (the columns are the state of the own identity:
// none, pinned, changed, verified, verification lost). Without a verified identity nobody
// may; with one, whoever it has signed, and no exception helps. What is said of nobody, of
// somebody else or of another's device is no.
func TestSecretsTable(t *testing.T) {
	t.Parallel()
	states := []PinState{PinNone, PinPinned, PinChanged, PinVerified, PinVerificationLost}
	for _, tc := range []struct {
		name   string
		device Device
		may    bool
	}{
		{"signed", plainDevice(true), true},
		{"unsigned", plainDevice(false), false},
		{"signed, locally verified", plainDevice(true, trusted), true},
		{"unsigned, locally verified (1.14)", plainDevice(false, trusted), false},
		{"signed, blacklisted", plainDevice(true, distrusted), false},
		{"dehydrated, signed (24.2)", plainDevice(true, dehydrated), false},
		{"do_not_encrypt (MSC4261)", plainDevice(true, unwilling), false},
		{"without keys (1.19)", plainDevice(true, faulty(FaultNoKeys)), false},
		{"without Megolm (2.5)", plainDevice(true, faulty(FaultNoAlgorithm)), false},
		{"shares a key with another (A16)", plainDevice(true, faulty(FaultSharedKey)), false},
		{"named like an identity key (A10)", plainDevice(true, faulty(FaultIdentityKey)), false},
		{"of another user", plainDevice(true, func(d *Device) { d.UserID = carol }), false},
	} {
		for _, state := range states {
			own := in(bob, state, tc.device)
			own.Own = true
			if got, want := MayHoldSecrets(own, &own.Devices[0]), tc.may && state == PinVerified; got != want {
				t.Errorf("%s, %v: %v, want %v", tc.name, state, got, want)
			}
			own.Own = false
			if MayHoldSecrets(own, &own.Devices[0]) {
				t.Errorf("%s, %v: a device of somebody else may", tc.name, state)
			}
			own.Own, own.Knowledge = true, KnowledgeUnreachable
			if MayHoldSecrets(own, &own.Devices[0]) {
				t.Errorf("%s, %v: of an own user who is not known", tc.name, state)
			}
		}
	}
	if MayHoldSecrets(nil, nil) || MayHoldSecrets(&User{}, &Device{}) {
		t.Error("the zero values may")
	}
	own := in(bob, PinVerified)
	own.Own = true
	if MayHoldSecrets(own, own.Device("NONE")) {
		t.Error("a device that is not there may")
	}
}
