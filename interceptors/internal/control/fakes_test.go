package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// fakeControl answers with fixed things and records what it was asked.
type fakeControl struct {
	err     error
	stepErr error // of the first thing that is asked
	empty   bool
	asked   []string
	// file is what an import brought; during is called while it is there.
	file   string
	during func()
}

func (c *fakeControl) ask(format string, args ...any) error {
	c.asked = append(c.asked, fmt.Sprintf(format, args...))
	if len(c.asked) == 1 && c.stepErr != nil {
		return c.stepErr
	}
	return c.err
}

func (c *fakeControl) Status(context.Context) (e2ee.Status, error) {
	s := e2ee.Status{UserID: alice, DeviceID: "DEVICE", Mode: "proxied"}
	if c.empty {
		return s, c.ask("status")
	}
	trusted := true
	s.Keys = e2ee.DeviceKeys{Ed25519: "ed", Curve25519: "curve"}
	s.Identity = e2ee.IdentityStatus{MasterKey: masterKey, Ours: true, DeviceSigned: true}
	s.SecretStorage = e2ee.StorageStatus{DefaultKey: "key", Complete: true}
	s.Backup = e2ee.BackupStatus{Version: "1", Trusted: true, Pending: 2}
	s.OtherDevices = []e2ee.DeviceTrust{{DeviceID: "PHONE", Override: &trusted}}
	s.Overrides = []e2ee.UserDevice{{UserID: bob, DeviceID: "LAPTOP"}}
	s.Problems = []e2ee.Problem{{Code: "c", Message: "m", Hint: "h"}}
	s.Warnings, _ = c.Warnings(nil) //nolint:staticcheck // the fake asks nobody
	return s, c.ask("status")
}

func (c *fakeControl) Checkup(_ context.Context, talk bool) ([]e2ee.CheckupLink, error) {
	return []e2ee.CheckupLink{{Name: "token", State: e2ee.CheckupOK, Message: "m"}}, c.ask("checkup %v", talk)
}

func (c *fakeControl) Bootstrap(_ context.Context, a e2ee.UserAuth) (secret.String, error) {
	return secret.NewString("EsTk ey"), c.ask("bootstrap %q %s", a.Password.Reveal(), a.Stage)
}

func (c *fakeControl) Recover(_ context.Context, r e2ee.Recovery) error {
	return c.ask("recover %q %q %v", r.Key.Reveal(), r.Passphrase.Reveal(), r.Restore)
}

func (c *fakeControl) Reset(ctx context.Context, a e2ee.UserAuth) (secret.String, error) {
	return c.ResetOnce(ctx, "", a)
}

func (c *fakeControl) ResetOnce(_ context.Context, request string, a e2ee.UserAuth) (secret.String, error) {
	return secret.NewString("EsTk ey"), c.ask("reset %s %q %s", request, a.Password.Reveal(), a.Stage)
}

func (c *fakeControl) ExportKeys(_ context.Context, passphrase secret.String, w io.Writer) error {
	if err := c.ask("export %q", passphrase.Reveal()); err != nil {
		return err
	}
	_, err := io.WriteString(w, "-----BEGIN")
	return err
}

func (c *fakeControl) ImportKeys(_ context.Context, passphrase secret.String, open func() io.Reader) (e2ee.Imported, error) {
	file, err := io.ReadAll(open())
	if again, twice := io.ReadAll(open()); err != nil || twice != nil || !bytes.Equal(file, again) {
		return e2ee.Imported{}, errors.Join(err, twice, errors.New("the file cannot be read twice"))
	}
	c.file = string(file)
	if c.during != nil {
		c.during()
	}
	return e2ee.Imported{Total: 3, Imported: 1, Refused: 1}, c.ask("import %q %q", passphrase.Reveal(), file)
}

func (c *fakeControl) RestoreHistory(context.Context) error { return c.ask("restore") }

func (c *fakeControl) RecoveryKey(context.Context) (secret.String, error) {
	if c.empty {
		return secret.String{}, c.ask("key")
	}
	return secret.NewString("EsTk ey"), c.ask("key")
}

func (c *fakeControl) DeleteRecoveryKey(context.Context) error { return c.ask("delete key") }

func (c *fakeControl) User(_ context.Context, user id.UserID) (e2ee.UserTrust, error) {
	if c.empty {
		return e2ee.UserTrust{UserID: user, State: "none"}, c.ask("user %s", user)
	}
	trusted := false
	return e2ee.UserTrust{
		UserID: user, State: "changed", PinnedMasterKey: masterKey, CurrentMasterKey: "other",
		Devices: []e2ee.DeviceTrust{{DeviceID: "LAPTOP", Signed: true}, {DeviceID: "OLD", Override: &trusted}},
	}, c.ask("user %s", user)
}

func (c *fakeControl) Acknowledge(_ context.Context, user id.UserID, key id.Ed25519) error {
	return c.ask("acknowledge %s %s", user, key)
}

func (c *fakeControl) WithdrawVerification(_ context.Context, user id.UserID) error {
	return c.ask("withdraw %s", user)
}

func (c *fakeControl) SetOverride(_ context.Context, user id.UserID, device id.DeviceID, trusted *bool) error {
	if trusted == nil {
		return c.ask("override %s %s none", user, device)
	}
	return c.ask("override %s %s %v", user, device, *trusted)
}

func (c *fakeControl) Warnings(context.Context) ([]e2ee.Warning, error) {
	if c.empty {
		return nil, c.err
	}
	return []e2ee.Warning{{
		ID: "w1", Code: "identity_changed", UserID: bob, RoomIDs: []id.RoomID{encryptedRoom}, Message: "text",
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}}, c.err
}

func (c *fakeControl) DismissWarning(_ context.Context, warning string) error {
	return c.ask("dismiss %s", warning)
}

func (c *fakeControl) verification(format string, args ...any) (e2ee.Verification, error) {
	return e2ee.Verification{
		ID: "v1", UserID: bob, Incoming: true, State: "requested", Message: "text",
		ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}, c.ask(format, args...)
}

func (c *fakeControl) Verifications(context.Context) ([]e2ee.Verification, error) {
	if c.empty {
		return nil, c.ask("verifications")
	}
	v, err := c.verification("verifications")
	return []e2ee.Verification{v}, err
}

func (c *fakeControl) Verification(_ context.Context, flow string) (e2ee.Verification, error) {
	return c.verification("verification %s", flow)
}

func (c *fakeControl) RequestVerification(_ context.Context, user id.UserID, with e2ee.VerificationPartner) (e2ee.Verification, error) {
	return c.verification("request verification %s %q", user, with.DeviceID)
}

func (c *fakeControl) AcceptVerification(_ context.Context, flow string) (e2ee.Verification, error) {
	return c.verification("accept %s", flow)
}

func (c *fakeControl) StartEmoji(_ context.Context, flow string) (e2ee.Verification, error) {
	return c.verification("emoji %s", flow)
}

func (c *fakeControl) ConfirmEmoji(_ context.Context, flow string, match bool) (e2ee.Verification, error) {
	return c.verification("confirm %s %v", flow, match)
}

func (c *fakeControl) ScanQR(_ context.Context, flow string, payload []byte) (e2ee.Verification, error) {
	return c.verification("scan %q %q", flow, payload)
}

func (c *fakeControl) ConfirmScanned(_ context.Context, flow string, yes bool) (e2ee.Verification, error) {
	return c.verification("scanned %s %v", flow, yes)
}

func (c *fakeControl) CancelVerification(_ context.Context, flow string) error {
	return c.ask("cancel %s", flow)
}

func (c *fakeControl) VerifyByFingerprint(_ context.Context, user id.UserID, key string) error {
	return c.ask("verify %s %q", user, key)
}

func (c *fakeControl) WatchVerifications(context.Context) <-chan struct{} { return nil }
