package console

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// accounts are the devices of people, in memory.
type accounts struct {
	mu   sync.Mutex
	held map[id.UserID][]Held
	devs map[id.UserID]*fakeDevice
}

func newAccounts() *accounts {
	return &accounts{held: map[id.UserID][]Held{alice: {{"A1", "Pidgin"}, {"A2", "IRC"}}, bob: {{"B1", ""}}}, devs: map[id.UserID]*fakeDevice{alice: newFakeDevice(alice), bob: newFakeDevice(bob)}}
}

func (a *accounts) Held(_ context.Context, user id.UserID) ([]Held, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held[user], nil
}

func (a *accounts) Device(_ context.Context, user id.UserID, device id.DeviceID) (Device, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.ContainsFunc(a.held[user], func(h Held) bool { return h.DeviceID == device }) {
		return nil, e2ee.ErrUnknownDevice
	}
	d := a.devs[user]
	d.mu.Lock()
	d.status.DeviceID = device
	d.mu.Unlock()
	return d, nil
}

func (a *accounts) of(user id.UserID) *fakeDevice { return a.devs[user] }

// fakeDevice is a device that does what it is told, and writes it down.
type fakeDevice struct {
	user id.UserID

	mu       sync.Mutex
	asked    []string
	fail     map[string]error
	status   e2ee.Status
	warnings []e2ee.Warning
	people   []e2ee.Person
	trust    map[id.UserID]e2ee.UserTrust
	key      string
	resetFor string
	flows    []e2ee.Verification
	watch    chan struct{}
}

const goodKey = "EsTb 7cxh aYfw t9T4 gQkm dVbP Nq5F bXrS 2Lh8 wRzJ mC4e uK3d"

func newFakeDevice(user id.UserID) *fakeDevice {
	yes := true
	return &fakeDevice{
		user: user, fail: map[string]error{}, watch: make(chan struct{}), key: goodKey,
		status: e2ee.Status{
			UserID: user, DeviceID: "A1", Mode: "proxied", Keys: e2ee.DeviceKeys{Ed25519: "DeviceKeyOf" + id.Ed25519(user)},
			Identity:      e2ee.IdentityStatus{MasterKey: "MasterKeyOf" + id.Ed25519(user), Ours: true, DeviceSigned: true},
			SecretStorage: e2ee.StorageStatus{DefaultKey: "k", Complete: true},
			Backup:        e2ee.BackupStatus{Enabled: true, Version: "1", Trusted: true, Readable: true, Count: 120},
			OtherDevices:  []e2ee.DeviceTrust{{DeviceID: "PHONE", Signed: true}, {DeviceID: "OLDLAPTOP", Override: &yes}},
			Policy:        &e2ee.PolicyStatus{Send: "enforce", Receive: "enforce", Native: "enforce"},
		},
		people: []e2ee.Person{{UserID: bob, State: "pinned"}, {UserID: carol, State: "verified"}},
		trust: map[id.UserID]e2ee.UserTrust{
			bob: {
				UserID: bob, State: "pinned", PinnedMasterKey: "MasterKeyOfBob0123456789abcdefghijklmnopqrs", CurrentMasterKey: "MasterKeyOfBob0123456789abcdefghijklmnopqrs",
				Devices: []e2ee.DeviceTrust{{DeviceID: "BPHONE", Signed: true}, {DeviceID: "BTEST"}},
			},
			carol: {UserID: carol, State: "verified", PinnedMasterKey: "MasterKeyOfCarol", CurrentMasterKey: "MasterKeyOfCarol", Devices: []e2ee.DeviceTrust{{DeviceID: "C1", Signed: true}}},
		},
	}
}

func (d *fakeDevice) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// changed tells whoever watches verifications.
func (d *fakeDevice) changed(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.watch)
	d.watch = make(chan struct{})
}

// ask writes down what was asked; the error is the one that was set for its first word.
func (d *fakeDevice) ask(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	what := fmt.Sprintf(format, args...)
	d.asked = append(d.asked, what)
	var word string
	_, _ = fmt.Sscan(what, &word)
	return d.fail[word]
}

// did returns what was asked that changes something.
func (d *fakeDevice) did() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

func (d *fakeDevice) Status(context.Context) (e2ee.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	s.Warnings = slices.Clone(d.warnings)
	return s, d.fail["status"]
}

func (d *fakeDevice) Bootstrap(_ context.Context, auth e2ee.UserAuth) (secret.String, error) {
	return secret.NewString(d.key), d.ask("bootstrap %q", auth.Password.Reveal())
}

func (d *fakeDevice) Recover(_ context.Context, with e2ee.Recovery) error {
	return d.ask("recover %q %q %v", with.Key.Reveal(), with.Passphrase.Reveal(), with.Restore)
}

func (d *fakeDevice) ResetBegun(_ context.Context, request string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.resetFor != "" && d.resetFor == request, nil
}

func (d *fakeDevice) ResetOnce(_ context.Context, request string, auth e2ee.UserAuth) (secret.String, error) {
	if begun, _ := d.ResetBegun(context.Background(), request); begun {
		return secret.NewString(goodKey), nil
	}
	err := d.ask("reset %q", auth.Password.Reveal())
	d.set(func() { d.resetFor = request })
	if err == nil {
		d.set(func() { d.status.Identity.MasterKey += "X" })
	}
	return secret.NewString(d.key), err
}

func (d *fakeDevice) RecoveryKey(context.Context) (secret.String, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.key == "" {
		return secret.String{}, e2ee.ErrNoRecoveryKey
	}
	return secret.NewString(d.key), nil
}

func (d *fakeDevice) DeleteRecoveryKey(context.Context) error {
	d.set(func() { d.key = "" })
	return d.ask("delete key")
}

func (d *fakeDevice) RestoreHistory(context.Context) error { return d.ask("restore") }

func (d *fakeDevice) User(_ context.Context, user id.UserID) (e2ee.UserTrust, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if trust, ok := d.trust[user]; ok {
		return trust, nil
	}
	return e2ee.UserTrust{}, e2ee.ErrUnknownUser
}

func (d *fakeDevice) People(_ context.Context, after id.UserID, limit int) ([]e2ee.Person, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []e2ee.Person
	for _, p := range d.people {
		if p.UserID > after && len(out) < limit {
			out = append(out, p)
		}
	}
	return out, nil
}

func (d *fakeDevice) Acknowledge(_ context.Context, user id.UserID, key id.Ed25519) error {
	return d.ask("acknowledge %s %s", user, key)
}

func (d *fakeDevice) WithdrawVerification(_ context.Context, user id.UserID) error {
	return d.ask("withdraw %s", user)
}

func (d *fakeDevice) SetOverride(_ context.Context, user id.UserID, device id.DeviceID, trusted *bool) error {
	said := "none"
	if trusted != nil {
		said = fmt.Sprint(*trusted)
	}
	return d.ask("override %s %s %s", user, device, said)
}

func (d *fakeDevice) Warnings(context.Context) ([]e2ee.Warning, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.warnings), nil
}

func (d *fakeDevice) DismissWarning(_ context.Context, warning string) error {
	return d.ask("dismiss %s", warning)
}

func (d *fakeDevice) Verifications(context.Context) ([]e2ee.Verification, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.flows), nil
}

func (d *fakeDevice) Verification(_ context.Context, flow string) (e2ee.Verification, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.flows {
		if f.ID == flow {
			return f, nil
		}
	}
	return e2ee.Verification{}, e2ee.ErrNoVerification
}

// move changes the state of a flow.
func (d *fakeDevice) move(flow string, to e2ee.VerificationState, format string, args ...any) (v e2ee.Verification, err error) {
	if err := d.ask(format, args...); err != nil {
		return v, err
	}
	err = e2ee.ErrNoVerification
	d.changed(func() {
		for i := range d.flows {
			if d.flows[i].ID == flow {
				d.flows[i].State = to
				v, err = d.flows[i], nil
			}
		}
	})
	return v, err
}

func (d *fakeDevice) RequestVerification(_ context.Context, user id.UserID, with e2ee.VerificationPartner) (e2ee.Verification, error) {
	v := e2ee.Verification{ID: "flow1", UserID: user, DeviceID: with.DeviceID, Own: user == d.user, State: "requested", Message: "Waiting for the other side to accept.", ExpiresAt: time.Date(2026, 11, 30, 12, 10, 0, 0, time.UTC)}
	err := d.ask("request %s %q", user, with.DeviceID)
	if err == nil {
		d.changed(func() { d.flows = append(d.flows, v) })
	}
	return v, err
}

func (d *fakeDevice) AcceptVerification(_ context.Context, flow string) (e2ee.Verification, error) {
	return d.move(flow, e2ee.VerificationReady, "accept %s", flow)
}

func (d *fakeDevice) StartEmoji(_ context.Context, flow string) (e2ee.Verification, error) {
	return d.move(flow, e2ee.VerificationStarted, "emoji %s", flow)
}

func (d *fakeDevice) ConfirmEmoji(_ context.Context, flow string, match bool) (e2ee.Verification, error) {
	to := e2ee.VerificationCancelled
	if match {
		to = e2ee.VerificationDone
	}
	return d.move(flow, to, "confirm %s %v", flow, match)
}

func (d *fakeDevice) ScanQR(_ context.Context, flow string, payload []byte) (e2ee.Verification, error) {
	return d.move(flow, e2ee.VerificationConfirmed, "scan %s %q", flow, payload)
}

func (d *fakeDevice) ConfirmScanned(_ context.Context, flow string, yes bool) (e2ee.Verification, error) {
	return d.move(flow, e2ee.VerificationDone, "scanned %s %v", flow, yes)
}

func (d *fakeDevice) CancelVerification(_ context.Context, flow string) error {
	_, err := d.move(flow, e2ee.VerificationCancelled, "cancel %s", flow)
	return err
}

func (d *fakeDevice) VerifyByFingerprint(_ context.Context, user id.UserID, key string) error {
	return d.ask("fingerprint %s %s", user, key)
}

func (d *fakeDevice) WatchVerifications(context.Context) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.watch
}

func (d *fakeDevice) Checkup(context.Context, bool) ([]e2ee.CheckupLink, error) {
	return nil, d.ask("checkup")
}
