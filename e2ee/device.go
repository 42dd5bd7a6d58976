package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/devicekeys"
	"e2ee-proxy/e2ee/internal/gossip"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/roomevents"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/schedule"
	"e2ee-proxy/e2ee/internal/sharedhistory"
	"e2ee-proxy/e2ee/internal/todevice"
	"e2ee-proxy/e2ee/internal/verification"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Device is one device of a user as the proxy sees it. It is composed of parts: each owns
// its fields and the methods on them, and calls the others through an interface of its own.
// One lock guards them all, see the package's documentation.
type Device struct {
	core *core.Device
	eng  *Engine
	acct *account

	hasClient bool // a client uses it; guarded by the Engine

	publication devicekeys.Publication
	keySupply   devicekeys.Supply
	ownIdentity ownidentity.Identity
	schedule    schedule.Schedule
	channel     channel.Olm
	outbound    roomkeys.Outbound
	inbound     roomkeys.Inbound
	receiver    todevice.Receiver
	late        late.Events
	backups     ownbackup.Backup
	rooms       rooms.Table
	gossip      gossip.Exchange
	history     sharedhistory.History
	clientState clientState
	shown       notices.Shown
	flows       verification.Flows
	watching
	listening *listening // nil: it has not listened yet
}

// Mode returns what the proxy does for this device.
func (d *Device) Mode() core.Mode { return d.core.Mode }

// reader returns what opens the device's events. It has no state, and is made when needed.
func (d *Device) reader() *roomevents.Reader {
	return roomevents.New(d.core, &d.inbound, &d.late, &d.backups, &d.rooms, &d.acct.rollout, &d.acct.search, &d.acct.files, d.eng.opts.Undecryptable)
}

// PublishWithin allows to publish the device's keys after a time, or earlier if that was
// said before. Zero means now: the client does something that needs keys.
func (d *Device) PublishWithin(wait time.Duration) { d.publication.PublishWithin(wait) }

// open loads a device. The first time it asks the homeserver: a device that has published
// keys keeps them, because keys must never be uploaded over keys of somebody else.
func (e *Engine) open(ctx context.Context, key deviceKey, token secret.String) (*Device, error) {
	acct, err := e.owned.Claim(ctx, key.user, e.env.Store.Claim)
	if err != nil {
		return nil, err
	}
	row := acct.Row
	dev, err := e.env.Store.Device(ctx, row, key.device)
	switch {
	case err == nil && dev.State != store.DeviceOurs && dev.Token != token:
		if dev, err = e.recheckDevice(ctx, row, dev, token); err != nil {
			return nil, err
		}
	case err == nil:
	case errors.Is(err, store.ErrNotFound):
		if dev, err = e.adopt(ctx, row, key, token); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("load device: %w", err)
	}
	d, err := e.restore(ctx, acct, dev)
	if err != nil {
		return nil, err
	}
	return d, d.useToken(ctx, token)
}

// recheckDevice checks a device whose keys are not here and whose client comes with another
// token. It may have been logged out without the proxy, and its ID may be used again by a
// client without keys.
func (e *Engine) recheckDevice(ctx context.Context, row *store.Account, dev store.Device, token secret.String) (store.Device, error) {
	whose, err := e.whoseKeys(ctx, row.UserID, dev.DeviceID, token)
	if err != nil {
		return store.Device{}, err
	}
	if whose == store.DeviceOurs {
		if err := e.deleteDevice(ctx, row, dev); err != nil {
			return store.Device{}, err
		}
		return e.make(ctx, row, dev.DeviceID, token, whose)
	}
	dev.State, dev.Token = whose, token
	if err := e.env.Store.Save(ctx, row, dev.ID, &store.Changes{Device: &dev}); err != nil {
		return store.Device{}, fmt.Errorf("store access token: %w", err)
	}
	return dev, nil
}

// adopt asks the homeserver for the device's keys, and makes keys if it has none.
func (e *Engine) adopt(ctx context.Context, row *store.Account, key deviceKey, token secret.String) (store.Device, error) {
	whose, err := e.whoseKeys(ctx, key.user, key.device, token)
	if err != nil {
		return store.Device{}, err
	}
	return e.make(ctx, row, key.device, token, whose)
}

// whoseKeys asks the homeserver for the keys of a device that is unknown here. If it has
// none, the proxy can make them. If the proxy made them once, they are lost. Otherwise they
// count as the client's: a homeserver can invent keys, so nothing may follow from them but
// that the device is left alone.
func (e *Engine) whoseKeys(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String) (store.DeviceState, error) {
	result, err := wire.KeyQuery{Homeserver: e.env.Homeserver, Token: token, User: user}.QueryKeys(ctx, []id.UserID{user})
	if err != nil {
		return store.DeviceUnknown, fmt.Errorf("look for existing device keys: %w", err)
	}
	if len(result.Failures) > 0 && result.DeviceKeys[user] == nil {
		return store.DeviceUnknown, fmt.Errorf("look for existing device keys: %w", core.ErrCannotEncrypt)
	}
	raw, has := result.DeviceKeys[user][device]
	if !has {
		return store.DeviceOurs, nil
	}
	var shown struct {
		Keys map[string]string `json:"keys"`
	}
	if json.Unmarshal(raw, &shown) != nil {
		return store.DeviceForeign, nil
	}
	ours, err := e.env.Store.Forgotten(ctx, store.PublishedDevice{
		UserID: user, DeviceID: device, Ed25519: shown.Keys["ed25519:"+device.String()],
	})
	switch {
	case err != nil:
		return store.DeviceUnknown, err
	case ours:
		return store.DeviceLost, nil
	}
	return store.DeviceForeign, nil
}

// make stores a new device: with keys of the proxy, of the client, or lost ones.
func (e *Engine) make(ctx context.Context, row *store.Account, device id.DeviceID, token secret.String, whose store.DeviceState) (store.Device, error) {
	dev := store.Device{DeviceID: device, State: whose, Token: token}
	if whose == store.DeviceOurs {
		acc, err := olm.NewAccount()
		if err != nil {
			return store.Device{}, err
		}
		dev.Ed25519, dev.Curve25519, dev.Olm = acc.Ed25519.String(), acc.Curve25519.String(), acc.Pickled()
	}
	// Stored before anything is uploaded, so that a retry uploads the same keys (requirement 2.7).
	made, err := e.env.Store.CreateDevice(ctx, row, dev)
	if err != nil {
		return store.Device{}, fmt.Errorf("store new device: %w", err)
	}
	return made, nil
}

// newDevice composes a Device of its parts.
func newDevice(e *Engine, acct *account, self core.Self) *Device {
	d := &Device{
		core: &core.Device{Env: e.env, Account: &acct.Account, Self: self}, eng: e, acct: acct,
	}
	d.connect()
	return d
}

// host is a device as its parts see it: each takes, through an interface of its own, what
// it needs of the others.
type host struct {
	*Device
	*devicekeys.Publication
	*devicekeys.Supply
	*ownidentity.Identity
	*schedule.Schedule
	*channel.Olm
	*roomkeys.Outbound
	*roomkeys.Inbound
	*ownbackup.Backup
	*rooms.Table
	*gossip.Exchange
	*clientState
}

// connect gives the parts of a device their host, and its locks their ranks.
func (d *Device) connect() {
	d.core.Mu = locks.Mutex{Place: d.core.Env.Order.At(locks.RankDevice)}
	all := &host{d, &d.publication, &d.keySupply, &d.ownIdentity, &d.schedule, &d.channel, &d.outbound, &d.inbound, &d.backups, &d.rooms, &d.gossip, &d.clientState}
	d.publication = devicekeys.NewPublication(d.core, all)
	d.keySupply = devicekeys.NewSupply(d.core, &d.channel, &d.publication)
	d.ownIdentity = ownidentity.New(d.core, &d.acct.identity, all)
	d.schedule = schedule.New(d.core, all)
	d.channel = channel.New(d.core, d.eng.channels, all)
	d.outbound = roomkeys.NewOutbound(d.core, &d.ownIdentity, &d.channel, &d.rooms, all)
	d.inbound = roomkeys.NewInbound(d.core, d.eng.inbound, all)
	d.late = late.New(d.core, &d.inbound, d.eng.opts.Undecryptable == UndecryptableHold, all)
	d.backups = ownbackup.New(d.core, &d.acct.backup, &d.ownIdentity, all)
	d.rooms = rooms.New(d.core, d.eng.rooms, all)
	d.gossip = gossip.New(d.core, all)
	d.clientState.Device = d.core
	d.history = sharedhistory.New(d.core, sharedhistory.Parts{Channel: &d.channel, Identity: &d.ownIdentity, Rooms: &d.rooms, Outbound: &d.outbound, Inbound: &d.inbound, Backup: &d.backups}, d.eng.history, all)
	d.receiver = todevice.New(d.core, &d.channel, &d.gossip, &d.inbound, &d.publication, &d.history)
	d.shown = notices.NewShown(d.core, &d.acct.warnings, all)
	d.flows = verification.New(d.core, all)
}

// restore makes a Device of its stored row.
func (e *Engine) restore(ctx context.Context, acct *account, dev store.Device) (*Device, error) {
	if err := errors.Join(acct.judgeAgain(ctx), acct.identity.Expect(ctx)); err != nil {
		return nil, err
	}
	d := newDevice(e, acct, core.Self{ID: dev.DeviceID, RowID: dev.ID})
	d.core.Record = core.Record{Row: dev, Token: dev.Token}
	d.core.Mode = modeOf(dev.State)
	if d.core.Mode == core.ModeProxied {
		acc, err := olm.LoadAccount(dev.Olm)
		if err != nil {
			return nil, err
		}
		d.core.Ed25519, d.core.Curve25519 = acc.Ed25519, acc.Curve25519
		d.channel.Load(acc, dev.Meta)
		d.outbound.LoadSession(dev.Meta)
		d.keySupply.Load(dev.Meta)
		d.shown.Load(dev.Meta)
		d.publication.Load(dev.KeysUploaded)
	}
	return d, nil
}

// isFor reports whether the device can be used with a token. A device without keys here
// must be checked again with a new token.
func (d *Device) isFor(token secret.String) bool {
	return d.core.Mode == core.ModeProxied || d.core.CurrentToken() == token
}

// useToken records the newest access token, for the proxy's own requests.
func (d *Device) useToken(ctx context.Context, token secret.String) error {
	if d.core.Mode != core.ModeProxied {
		return nil
	}
	if err := d.keepToken(ctx, token); err != nil {
		return err
	}
	d.eng.awaken(d)
	return nil
}

func (d *Device) keepToken(ctx context.Context, token secret.String) error {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	if d.core.Record.Token == token {
		return nil
	}
	s := d.core.Begin()
	s.Row().Token = token
	s.After(func() {
		d.core.Record.Token, d.core.Record.NextToken = token, secret.String{}
		d.schedule.KickLocked()
	})
	return s.Commit(ctx, "the access token")
}

// kick requests maintenance.
func (d *Device) kick() {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.schedule.KickLocked()
}

// retire ends the device's own work.
func (d *Device) retire() {
	d.flows.Stop()
	if d.core.Stop != nil {
		d.core.Stop(core.ErrClosed)
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.core.Record.Token, d.core.Record.NextToken = secret.String{}, secret.String{}
	d.publication.Stop()
	d.schedule.Stop()
	d.gossip.Stop()
	d.channel.ForgetSessions()
}

// A device is the host of its Olm channels.
var _ channel.Host = host{}

// ShownKeys implements channel.Host.
func (h host) ShownKeys() json.RawMessage { return h.Identity.ShownKeysLocked() }

// StillMayGet implements channel.Host. Where it was not stored what a request gives, one for devices of
// several users, or for several of the own user's, can only be a room key's.
func (h host) StillMayGet(ctx context.Context, about *olm.About, since time.Time) (bool, error) {
	switch user := about.User(); {
	case about.Kind == olm.KindUnknown && (user == "" || user == h.acct.User && len(about.To) > 1):
		return true, nil
	case user == h.acct.User:
		return h.StillMayGive(ctx, about)
	default:
		return h.Device.history.StillMayGive(ctx, about, since)
	}
}

// A device is the host of its room keys.
var (
	_ roomkeys.OutboundHost = host{}
	_ roomkeys.InboundHost  = host{}
)

// WakeWaiting implements roomkeys.InboundHost.
func (h host) WakeWaiting() { h.wakeWaiting() }

// A device is the host of its ownidentity.Identity and of its ownbackup.Backup.
var (
	_ ownidentity.Host = host{}
	_ ownbackup.Host   = host{}
)

// SetBackupStanding implements ownidentity.Host.
func (h host) SetBackupStanding(s keybackup.Standing) { h.Device.acct.backup.SetStanding(s) }

// ForgetBackup implements ownidentity.Host.
func (h host) ForgetBackup() { h.Device.acct.backup.Forget() }

// TellRecoveredAlone implements ownidentity.Host.
func (h host) TellRecoveredAlone(ctx context.Context) error { return h.tellRecoveredAlone(ctx) }

// A device is the host of its gossip.Exchange.
var _ gossip.Host = host{}

// ReadOwn implements gossip.Host.
func (h host) ReadOwn(ctx context.Context) (*trustcache.User, error) {
	return h.Identity.ReadOwn(ctx, false)
}

// IsSigned implements gossip.Host.
func (h host) IsSigned() bool { return h.State() == ownidentity.Signed }

// StillMayHold implements gossip.Host.
func (h host) StillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error) {
	return h.stillMayHold(ctx, dev)
}

// SecretsCame implements gossip.Host.
func (h host) SecretsCame() { h.RecheckLocked() }

// A device is the host of its schedule.
var _ schedule.Host = host{}

// Enqueue implements schedule.Host.
func (h host) Enqueue() bool {
	select {
	case h.eng.maintenance <- h.Device:
		return true
	default:
		return false
	}
}

// RunLoop implements schedule.Host.
func (h host) RunLoop() {
	d := h.Device
	d.core.Env.WG.Go(func() { d.syncLoop(d.core.Context) })
}
