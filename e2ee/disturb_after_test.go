package e2ee_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/testproc"
)

// What must hold right after a disturbance, before anything is done again.

// wantUndecided fails the test for an error that tells a user more than that something went
// wrong now: that a key is wrong or gone, that a device is not trusted, that the account must
// do something. Whoever believes it gives up, or makes a new identity, and a moment later
// all would have been well.
func wantUndecided(t *testing.T, err error) {
	t.Helper()
	for _, final := range []error{
		e2ee.ErrNotYetEncrypted, e2ee.ErrUnsupportedAlgorithm, e2ee.ErrNotJoined, e2ee.ErrDeviceNotSigned, e2ee.ErrSignatureNotShown, e2ee.ErrSignatureRefused,
		e2ee.ErrKeysRefused, e2ee.ErrNotProxied, e2ee.ErrKeysReplaced, e2ee.ErrKeysLost, e2ee.ErrLeaseLost, e2ee.ErrIdentityExists, e2ee.ErrWrongPassword,
		e2ee.ErrNoIdentity, e2ee.ErrWrongRecoveryKey, e2ee.ErrNoSecretStorage, e2ee.ErrNoPassphrase, e2ee.ErrNoBackup, e2ee.ErrSecretMissing, e2ee.ErrSecretMismatch,
		e2ee.ErrUnknownUser, e2ee.ErrUnknownDevice, e2ee.ErrUnknownWarning, e2ee.ErrMasterKeyNotCurrent, e2ee.ErrVerificationLost, e2ee.ErrNotVerified,
		e2ee.ErrNoRecoveryKey, e2ee.ErrNotAnExport, e2ee.ErrExportTooCostly, e2ee.ErrWrongPassphrase,
	} {
		if errors.Is(err, final) {
			t.Errorf("a disturbance is reported as %q", err)
		}
	}
	if changed, ok := errors.AsType[*e2ee.IdentityChangedError](err); ok {
		t.Errorf("a disturbance is reported as a change of %v", changed.Users)
	}
	if _, ok := errors.AsType[*e2ee.AuthNeededError](err); ok {
		t.Error("a disturbance is reported as a question for a password")
	}
}

// watched does something, and looks at the end of the test, when the engine was closed,
// whether any goroutine of the engine that was begun during it is still there: of a sample
// of points at the first ones, since to look at all goroutines takes as long as the work.
func watched(t *testing.T, first bool, do func()) {
	t.Helper()
	if !first && os.Getenv(everyPoint) == "" {
		do()
		return
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		err := testproc.Await(ctx, func(context.Context) error {
			if where := left(t); where != "" {
				return errors.New(where)
			}
			return nil
		})
		if err != nil {
			t.Errorf("a goroutine of the engine is left: %v", err)
		}
	})
	pprof.Do(context.Background(), pprof.Labels("test", t.Name()), func(context.Context) { do() })
}

// left returns where a goroutine of the engine is that was begun by a test.
func left(t *testing.T) string {
	t.Helper()
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		t.Fatal(err)
	}
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, `"`+t.Name()+`"`) && strings.Contains(stack, "e2ee-proxy/e2ee.") {
			return stack
		}
	}
	return ""
}

// nothingLeaks returns a check that the homeserver can read nothing of what was said, and that
// those who must not have a room key have none.
func (st *stage) nothingLeaks(room string, none ...*puppet) func(err error) {
	return func(error) {
		st.t.Helper()
		for _, text := range st.said {
			if st.hs.PlaintextSeen(text) {
				st.t.Errorf("the homeserver can read %q", text)
			}
		}
		for _, ev := range st.hs.Events(room) {
			if ev.Type == "m.room.message" {
				st.t.Errorf("a message in clear: %s", ev.Content)
			}
		}
		for _, p := range none {
			if n := len(p.roomKeys()); n > 0 {
				st.t.Errorf("%s of %s has %d room keys", p.DeviceID, p.UserID, n)
			}
		}
	}
}
