package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/verification"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

type (
	// Verification is one verification as a person sees it, and VerificationPartner says with
	// whom; see package verification.
	Verification        = verification.Verification
	VerificationPartner = verification.Partner
	VerificationState   = verification.State
	VerificationEmoji   = verification.Emoji
)

// Reasons why a verification goes no further, see package core.
var (
	ErrNoVerification       = core.ErrNoVerification
	ErrNotACode             = core.ErrNotACode
	ErrOtherCode            = core.ErrOtherCode
	ErrTooManyVerifications = core.ErrTooManyVerifications
	ErrUnverifiable         = core.ErrUnverifiable
	ErrVerificationStep     = core.ErrVerificationStep
)

// The states of verifications, see package verification.
const (
	VerificationRequested = verification.Requested
	VerificationReady     = verification.Ready
	VerificationStarted   = verification.Started
	VerificationCompare   = verification.Compare
	VerificationConfirmed = verification.Confirmed
	VerificationScanned   = verification.Scanned
	VerificationDone      = verification.Done
	VerificationCancelled = verification.Cancelled
)

// decideFlow makes a person's decision about a flow happen.
func (d *Device) decideFlow(ctx context.Context, flow string, decide verification.Decide) (Verification, error) {
	if d.core.Mode != core.ModeProxied {
		return Verification{}, core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	return d.flows.Decided(ctx, flow, decide)
}

// Verifications returns the verifications that are under way, and those that ended a short
// while ago, the newest first.
func (d *Device) Verifications(ctx context.Context) ([]Verification, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, core.ErrNotProxied
	}
	return d.flows.List(ctx), nil
}

// Verification returns one verification. Looking at one that waits for an answer keeps it
// open for longer. Error: ErrNoVerification.
func (d *Device) Verification(ctx context.Context, flow string) (Verification, error) {
	if d.core.Mode != core.ModeProxied {
		return Verification{}, core.ErrNotProxied
	}
	return d.flows.Look(ctx, flow)
}

// RequestVerification asks another user, or other devices of the own user, to verify: another
// user in the room for the two of them, if there is one. For somebody with whom the user shares
// no encrypted room, one is made.
func (d *Device) RequestVerification(ctx context.Context, user id.UserID, with VerificationPartner) (Verification, error) {
	if d.core.Mode != core.ModeProxied {
		return Verification{}, core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	if err := d.uploadNow(ctx); err != nil {
		return Verification{}, err
	}
	var room id.RoomID
	if with.DeviceID == "" && user != d.acct.User {
		var err error
		if room, err = d.roomWith(ctx, user); err != nil {
			return Verification{}, err
		}
		if room == "" && !d.meets(ctx, user) {
			if room, err = d.meet(ctx, user); err != nil {
				d.core.Env.Log.Info().Err(err).Msg("No room could be made to verify in, so the devices are asked")
			}
		}
	}
	to := func(k verification.Known) ([]id.DeviceID, error) { return d.partners(k, with) }
	if room != "" {
		v, err := d.flows.Request(ctx, user, room, func(verification.Known) ([]id.DeviceID, error) { return nil, nil })
		var blocked *core.IdentityChangedError
		if !errors.As(err, &blocked) {
			return v, err
		}
		// Nothing is sent into the room until the identity is accepted, which a verification does.
	}
	return d.flows.Request(ctx, user, "", to)
}

// partners returns the devices that are asked to verify.
func (d *Device) partners(k verification.Known, with VerificationPartner) ([]id.DeviceID, error) {
	own := k.Them.UserID == d.acct.User
	var all, signed []id.DeviceID
	for i := range k.Them.Devices {
		dev := &k.Them.Devices[i]
		switch {
		case !dev.Usable(), dev.Dehydrated, own && dev.DeviceID == d.core.ID:
			continue
		case with.DeviceID != "" && dev.DeviceID != with.DeviceID:
			continue
		}
		all = append(all, dev.DeviceID)
		if dev.Signed {
			signed = append(signed, dev.DeviceID)
		}
	}
	if len(signed) > 0 && (!own || !k.Us.Trusted) && with.DeviceID == "" {
		all = signed // the others cannot help
	}
	if len(all) == 0 && k.Them.Known() && (own || with.DeviceID != "") {
		return nil, core.ErrUnknownDevice
	}
	return all, nil
}

// AcceptVerification accepts one that the other side asked for.
func (d *Device) AcceptVerification(ctx context.Context, flow string) (Verification, error) {
	return d.decideFlow(ctx, flow, verification.Flow.Accept)
}

// StartEmoji chooses emoji and numbers.
func (d *Device) StartEmoji(ctx context.Context, flow string) (Verification, error) {
	return d.decideFlow(ctx, flow, verification.Flow.Emoji)
}

// ConfirmEmoji says whether a person sees the same emoji, or numbers, on both sides.
func (d *Device) ConfirmEmoji(ctx context.Context, flow string, match bool) (Verification, error) {
	return d.decideFlow(ctx, flow, func(f verification.Flow, k verification.Known) (verification.Flow, verification.Effects, error) {
		return f.Confirm(k, match)
	})
}

// ScanQR takes the content of a code that the other side shows; an empty flow is the one
// that the code names. Errors: ErrNotACode, ErrOtherCode.
func (d *Device) ScanQR(ctx context.Context, flow string, payload []byte) (Verification, error) {
	code, err := verification.ReadCode(payload)
	if err != nil {
		return Verification{}, err
	}
	if flow == "" {
		if flow = d.flows.Named(code); flow == "" {
			return Verification{}, core.ErrOtherCode
		}
	}
	return d.decideFlow(ctx, flow, func(f verification.Flow, k verification.Known) (verification.Flow, verification.Effects, error) {
		return f.Scan(k, code)
	})
}

// ConfirmScanned says whether the person at the other side says that they scanned the code
// that is shown here.
func (d *Device) ConfirmScanned(ctx context.Context, flow string, yes bool) (Verification, error) {
	return d.decideFlow(ctx, flow, func(f verification.Flow, k verification.Known) (verification.Flow, verification.Effects, error) {
		return f.Scanned(k, yes)
	})
}

// CancelVerification ends a verification.
func (d *Device) CancelVerification(ctx context.Context, flow string) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	return d.flows.Cancel(ctx, flow)
}

// VerifyByFingerprint verifies a user whose master key a person has compared over another
// channel. Blanks, and padding at the end, do not count.
func (d *Device) VerifyByFingerprint(ctx context.Context, user id.UserID, masterKey string) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	key := id.Ed25519(strings.TrimRight(strings.Join(strings.Fields(masterKey), ""), "="))
	return host{Device: d, Identity: &d.ownIdentity}.Record(ctx, &verification.Target{User: user, Master: key, Adopt: user == d.acct.User})
}

// WatchVerifications returns a channel that is closed when something changes after the call.
func (d *Device) WatchVerifications(context.Context) <-chan struct{} { return d.flows.Watch() }

// A device is the host of its verifications.
var _ verification.Host = host{}

// Known implements verification.Host.
func (h host) Known(ctx context.Context, user id.UserID, device id.DeviceID) (verification.Known, error) {
	users, err := h.acct.Tracker.Lookup(ctx, h.core.Query(), []id.UserID{h.acct.User, user})
	if err != nil {
		return verification.Known{}, fmt.Errorf("read the keys of both sides: %w", err)
	}
	if device != "" && users[user].Device(device) == nil && users[user].Knowledge == trustcache.KnowledgeFresh {
		return h.KnownAgain(ctx, user) // a device that has just been made
	}
	return h.known(ctx, users, user)
}

// KnownAgain implements verification.Host.
func (h host) KnownAgain(ctx context.Context, user id.UserID) (verification.Known, error) {
	users, err := h.acct.Tracker.Query(ctx, h.core.Query(), []id.UserID{h.acct.User, user})
	if err != nil {
		return verification.Known{}, fmt.Errorf("read the keys of both sides: %w", err)
	}
	return h.known(ctx, users, user)
}

func (h host) known(ctx context.Context, users map[id.UserID]*trustcache.User, user id.UserID) (verification.Known, error) {
	own := users[h.acct.User]
	signs, err := h.Identity.Signs(ctx, own)
	if err != nil {
		return verification.Known{}, err
	}
	return verification.Known{
		Now: h.core.Env.Now(), Them: users[user],
		Us: verification.Us{
			User: h.acct.User, Device: h.core.ID, Ed25519: h.core.Ed25519, Master: own.Current,
			Trusted: own.State() == trustcache.PinVerified, Signs: signs,
		},
	}, nil
}

// SendToDevices implements verification.Host.
func (h host) SendToDevices(ctx context.Context, m verification.Message, user id.UserID) error {
	to := make(map[id.DeviceID]json.RawMessage, len(m.Devices))
	for _, device := range m.Devices {
		to[device] = m.Content
	}
	return h.core.Call(ctx, wire.Request{
		Op: "send a message of a verification", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", m.Type, rand.Text()},
		Body: map[string]any{"messages": map[id.UserID]any{user: to}},
	})
}

// Record implements verification.Host.
func (h host) Record(ctx context.Context, t *verification.Target) error {
	switch {
	case t.User != h.acct.User:
		return h.SignUser(ctx, t.User, t.Master)
	case t.Adopt:
		return h.Adopt(ctx, t.Master)
	case t.Device != "":
		return h.SignDevice(ctx, t.Device, t.Key)
	}
	return nil
}

// name returns under which name it is stored what is known of the verifications.
func (h host) name() string { return identity.OfDevice(identity.SecretVerifying, h.core.Ed25519) }

// Keep implements verification.Host.
func (h host) Keep(ctx context.Context, flows []byte) error {
	if flows == nil {
		return h.core.Save(ctx, &store.Changes{DeleteSecrets: []string{h.name()}})
	}
	row := store.Secret{Name: h.name(), Value: secret.Bytes(flows), CreatedAt: h.core.Env.Now()}
	return h.core.Save(ctx, &store.Changes{Secrets: []store.Secret{row}})
}

// Kept implements verification.Host.
func (h host) Kept(ctx context.Context) ([]byte, error) {
	row, err := h.core.Env.Store.Secret(ctx, h.acct.Row, h.name())
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which verifications were under way: %w", err)
	}
	return row.Value.Reveal(), nil
}

// Interrupted implements verification.Host.
func (h host) Interrupted(ctx context.Context, v verification.Verification) {
	again := v.UserID.String()
	if v.Own {
		again = "me"
	}
	_, err := h.ControlRoom().Tell(ctx, ControlText(v.Message+" Write: verify "+again))
	if err != nil && !errors.Is(err, ErrNoControlRoom) {
		h.core.Env.Log.Debug().Err(err).Msg("The control room does not say that a verification was interrupted")
	}
}

// ConfirmsUnseen implements verification.Host.
func (h host) ConfirmsUnseen() bool { return h.acct.Settings().AutoVerifyOwn }

// Begun implements verification.Host.
func (h host) Begun() {
	h.eng.awaken(h.Device)
	if !h.flows.InRooms() {
		return
	}
	h.core.Mu.Lock()
	without := h.withoutMessages
	h.core.Mu.Unlock()
	if without {
		h.schedule.Live.Interrupt() // it would not see the answer
	}
}

// Waiting implements verification.Host.
func (h host) Waiting(ctx context.Context) {
	err := h.acct.warnings.Review(ctx, h.core, func(context.Context) ([]notices.Cause, map[string]bool, error) {
		return h.acct.asking(), map[string]bool{notices.CodeVerificationRequested: true}, nil
	})
	if err != nil {
		h.core.Env.Log.Warn().Err(err).Msg("The warning about a verification follows with the next upkeep")
	}
}

// asking returns who waits for an answer to a request to verify, each once.
func (a *account) asking() []notices.Cause {
	var out []notices.Cause
	seen := make(map[id.UserID]bool)
	for _, d := range a.proxied() {
		for _, one := range d.flows.Asking() {
			if !seen[one.User] {
				out = append(out, notices.Verify(one.User, one.Own))
			}
			seen[one.User] = true
		}
	}
	return out
}
