package e2ee

import (
	"errors"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/trustcache"
)

// The preconditions of a send, which come before any recipient: how the device and its
// owner's identity stand. The second column is account.require_cross_signing: false.
func TestSendPreconditions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		own              ownidentity.State
		reference        string
		strict, unsigned error
		why              string
	}{
		{ownidentity.NoIdentity, "CrossSigningNotSetup", core.ErrDeviceNotSigned, nil, "the exception is for trying things out"},
		{ownidentity.Unsigned, "SendingFromUnverifiedDevice", core.ErrDeviceNotSigned, nil, "the exception is for trying things out"},
		{ownidentity.Changed, "VerifiedUserChangedIdentity([own])", core.ErrDeviceNotSigned, core.ErrDeviceNotSigned, ""},
		{ownidentity.Replaced, "-", core.ErrKeysReplaced, core.ErrKeysReplaced, "the reference takes it for a fatal error of its own (2.10)"},
		{ownidentity.Signed, "sends, if the own identity is verified", nil, nil, "signed by the published identity is what others look at; whether we hold its private keys is not"},
		{ownidentity.Unknown, "-", core.ErrCannotEncrypt, core.ErrCannotEncrypt, "unknown means refuse"},
		{ownidentity.State(99), "-", core.ErrCannotEncrypt, core.ErrCannotEncrypt, ""},
	} {
		for _, mode := range []trustcache.Mode{trustcache.ModeEnforce, trustcache.ModeWarn, trustcache.ModeOff, 99} {
			if got := sendRefusal(tc.own, false, mode); !errors.Is(got, tc.strict) {
				t.Errorf("%d (%s; %s), mode %d: %v, want %v", tc.own, tc.reference, tc.why, mode, got, tc.strict)
			}
			want := tc.unsigned
			if tc.own == ownidentity.Changed && (mode == trustcache.ModeWarn || mode == trustcache.ModeOff) {
				want = nil // "warn" refuses nothing
			}
			if got := sendRefusal(tc.own, true, mode); !errors.Is(got, want) {
				t.Errorf("%d (%s; %s), mode %d, unsigned allowed: %v, want %v", tc.own, tc.reference, tc.why, mode, got, want)
			}
		}
	}
}

// Precedence: an own identity in violation comes before everybody else's, a change of
// somebody verified is named apart, and all who block are named at once.
func TestGatePrecedence(t *testing.T) {
	t.Parallel()
	user := func(name id.UserID, pin trustcache.Pin) *trustcache.User {
		return &trustcache.User{UserID: name, Own: name == "@me:x", Knowledge: trustcache.KnowledgeFresh, Pin: pin}
	}
	fine := trustcache.Pin{Current: "A", PinnedMaster: "A"}
	changed := trustcache.Pin{Current: "B", PinnedMaster: "A"}
	lost := trustcache.Pin{Current: "B", PinnedMaster: "A", WasVerified: true}
	me := user("@me:x", fine)
	for _, tc := range []struct {
		name        string
		users       []*trustcache.User
		want        error // nil: see below
		users1, los []id.UserID
	}{
		{"everybody fine", []*trustcache.User{me, user("@b:x", fine)}, nil, nil, nil},
		{"one changed", []*trustcache.User{me, user("@b:x", changed)}, nil, []id.UserID{"@b:x"}, nil},
		{"one changed, one lost", []*trustcache.User{user("@a:x", lost), me, user("@z:x", changed)}, nil, []id.UserID{"@z:x"}, []id.UserID{"@a:x"}},
		{"the own one too, last", []*trustcache.User{user("@a:x", lost), user("@b:x", changed), user("@me:x", lost)}, core.ErrDeviceNotSigned, nil, nil},
		{"the own one too, first", []*trustcache.User{user("@me:x", changed), user("@z:x", lost)}, core.ErrDeviceNotSigned, nil, nil},
		{"the own one not known", []*trustcache.User{user("@z:x", lost)}, core.ErrCannotEncrypt, nil, nil},
	} {
		decision := trustcache.Gate(tc.users, trustcache.ModeEnforce)
		err := gateError(&decision)
		if tc.want != nil {
			if !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
			continue
		}
		var blocked *core.IdentityChangedError
		if !errors.As(err, &blocked) {
			if err != nil || len(tc.users1)+len(tc.los) > 0 {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if !slices.Equal(blocked.Users, tc.users1) || !slices.Equal(blocked.Lost, tc.los) {
			t.Errorf("%s: changed %v, lost %v", tc.name, blocked.Users, blocked.Lost)
		}
	}
	if err := gateError(&trustcache.GateDecision{}); !errors.Is(err, core.ErrCannotEncrypt) {
		t.Errorf("no decision: %v", err)
	}
}
