package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Device is one device of a user as the proxy sees it. It is composed of parts: each owns
// its fields and the methods on them, and calls the others through an interface of its own.
// One lock guards them all, see the package's documentation.
type Device struct {
	part
	publication
	keySupply
	ownIdentity
	schedule
	olmState
	megolmState
	backups
	roomTable
	gossip
	clientState
}

// part is what all parts of a device share: whose it is, and its stored row.
type part struct {
	eng  *Engine
	acct *account
	self
	lifetime

	// mu guards the record and the other parts, except where they say otherwise. It is
	// never held during a request to the homeserver.
	mu     locks.Mutex
	record record
}

// self identifies a device. It never changes.
type self struct {
	id    id.DeviceID
	rowID int64
	mode  Mode

	ed25519    id.Ed25519
	curve25519 id.Curve25519
}

// lifetime is how a device ends.
type lifetime struct {
	ctx  context.Context
	stop context.CancelCauseFunc

	hasClient  bool        // a client uses it; guarded by the Engine
	mustReload atomic.Bool // see ErrReload
}

// record is the stored row of a device, with its token.
type record struct {
	row   store.Device
	token secret.String
	// nextToken replaces token when the homeserver refuses token, or the client uses
	// nextToken.
	nextToken secret.String
}

// Mode returns what the proxy does for this device.
func (d *Device) Mode() Mode { return d.mode }

// open loads a device. The first time it asks the homeserver: a device that has published
// keys keeps them, because keys must never be uploaded over keys of somebody else.
func (e *Engine) open(ctx context.Context, key deviceKey, token secret.String) (*Device, error) {
	row, err := e.store.Account(ctx, key.user)
	if err != nil {
		return nil, fmt.Errorf("load account: %w", err)
	}
	dev, err := e.store.Device(ctx, row, key.device)
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
	d, err := e.restore(ctx, row, dev)
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
	if err := e.store.Save(ctx, row, dev.ID, &store.Changes{Device: &dev}); err != nil {
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
	result, err := wire.KeyQuery{Homeserver: e.hs, Token: token, User: user}.QueryKeys(ctx, []id.UserID{user})
	if err != nil {
		return store.DeviceUnknown, fmt.Errorf("look for existing device keys: %w", err)
	}
	if len(result.Failures) > 0 && result.DeviceKeys[user] == nil {
		return store.DeviceUnknown, fmt.Errorf("look for existing device keys: %w", ErrCannotEncrypt)
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
	ours, err := e.store.Forgotten(ctx, store.PublishedDevice{
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
	made, err := e.store.CreateDevice(ctx, row, dev)
	if err != nil {
		return store.Device{}, fmt.Errorf("store new device: %w", err)
	}
	return made, nil
}

// newDevice composes a Device of its parts.
func newDevice(e *Engine, acct *account, self self) *Device {
	d := &Device{
		part:        part{eng: e, acct: acct, self: self},
		publication: publication{ready: make(chan struct{})},
		keySupply:   keySupply{count: -1},
		schedule:    schedule{usedAt: e.now()},
		olmState:    olmState{outboxPending: true, noKeys: make(map[store.DeviceRef]retry)},
		megolmState: megolmState{outbound: make(map[id.RoomID]*outbound), sent: make(map[store.TxnRef]id.EventID)},
		roomTable:   roomTable{known: make(map[id.RoomID]*room)},
		gossip:      gossip{askKeys: true},
	}
	d.connect()
	return d
}

// connect gives the parts of a device their host, and its locks their ranks.
func (d *Device) connect() {
	order := d.eng.opts.locks
	d.mu = locks.Mutex{Order: order, Rank: locks.RankDevice}
	d.opens = locks.Mutex{Order: order, Rank: locks.RankOpens}
	d.sends = locks.Turns[id.RoomID]{Order: order, Rank: locks.RankSends}
	d.outboxTurn = locks.Turns[struct{}]{Order: order, Rank: locks.RankOutbox}
	d.upkeep = locks.Turns[struct{}]{Order: order, Rank: locks.RankUpkeep}
	d.syncTurn = locks.Turns[struct{}]{Order: order, Rank: locks.RankSync}
	d.live.mu = locks.Mutex{Order: order, Rank: locks.RankLeaf}
	d.publication.part, d.publication.host = &d.part, d
	d.keySupply.part = &d.part
	d.ownIdentity.part, d.ownIdentity.host = &d.part, d
	d.schedule.part, d.schedule.host = &d.part, d
	d.olmState.part, d.olmState.host = &d.part, d
	d.megolmState.part, d.megolmState.host = &d.part, d
	d.backups.part, d.backups.host = &d.part, d
	d.roomTable.part, d.roomTable.host = &d.part, d
	d.gossip.part, d.gossip.host = &d.part, d
	d.clientState.part, d.clientState.host = &d.part, d
}

// restore makes a Device of its stored row.
func (e *Engine) restore(ctx context.Context, row *store.Account, dev store.Device) (*Device, error) {
	acct := e.account(row)
	if err := acct.expectIdentity(ctx); err != nil {
		return nil, err
	}
	d := newDevice(e, acct, self{id: dev.DeviceID, rowID: dev.ID})
	d.record = record{row: dev, token: dev.Token}
	switch dev.State {
	case store.DeviceOurs:
		acc, err := olm.LoadAccount(dev.Olm)
		if err != nil {
			return nil, err
		}
		d.olmState.account, d.mode = acc, ModeProxied
		d.ed25519, d.curve25519 = acc.Ed25519, acc.Curve25519
		d.clientState.noticed, d.olmState.begun, d.keySupply.served = loadNotices(dev.Meta), loadBegun(dev.Meta), loadServed(dev.Meta)
		if d.publication.allowed = dev.KeysUploaded; d.publication.allowed {
			close(d.publication.ready)
		}
	case store.DeviceForeign:
		d.mode = ModeForeign
	case store.DeviceLost:
		d.mode = ModeLost
	case store.DeviceUnknown:
		d.mode = ModeUnknown
	}
	return d, nil
}

// isFor reports whether the device can be used with a token. A device without keys here
// must be checked again with a new token.
func (d *Device) isFor(token secret.String) bool {
	return d.mode == ModeProxied || d.currentToken() == token
}

// useToken records the newest access token, for the proxy's own requests.
func (d *Device) useToken(ctx context.Context, token secret.String) error {
	if d.mode != ModeProxied {
		return nil
	}
	if err := d.keepToken(ctx, token); err != nil {
		return err
	}
	d.eng.awaken(d)
	return nil
}

func (d *Device) keepToken(ctx context.Context, token secret.String) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.record.token == token {
		return nil
	}
	s := d.begin()
	s.row().Token = token
	s.after(func() {
		d.record.token, d.record.nextToken = token, secret.String{}
		d.kickLocked()
	})
	return s.commit(ctx, "the access token")
}

// currentToken returns the token for the proxy's own requests.
func (p *part) currentToken() secret.String {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record.token
}

// call sends a request in the device's name. If the homeserver does not know the token any
// more, the device's own work ends until a client brings another.
func (p *part) call(ctx context.Context, r wire.Request) error {
	token := p.currentToken()
	if token.IsZero() {
		return &wire.UpstreamError{Op: r.Op, Status: 401, ErrCode: "M_MISSING_TOKEN"}
	}
	r.User = p.acct.user
	err := p.eng.hs.Call(ctx, token, r)
	if errors.Is(err, wire.ErrAnswerTooLarge) { // a retry would be too large too
		p.eng.log.Warn().Err(err).Msg("An answer of the homeserver could not be taken in")
	}
	return err
}

// query returns a client for /keys/query.
func (p *part) query() wire.KeyQuery {
	return wire.KeyQuery{Homeserver: p.eng.hs, Token: p.currentToken(), User: p.acct.user}
}

// kick requests maintenance.
func (d *Device) kick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kickLocked()
}

func (d *Device) kickLocked() {
	d.schedule.wanted = true
	if d.schedule.visiting || d.schedule.queued || d.ctx == nil || d.ctx.Err() != nil {
		return
	}
	select {
	case d.eng.maintenance <- d:
		d.schedule.queued = true
	default: // the queue is full; the sync loop kicks again
	}
}

// retire ends the device's own work.
func (d *Device) retire() {
	if d.stop != nil {
		d.stop(ErrClosed)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record.token, d.record.nextToken = secret.String{}, secret.String{}
	for _, timer := range []*time.Timer{d.publication.timer, d.schedule.retry.timer, d.gossip.askTimer} {
		if timer != nil {
			timer.Stop()
		}
	}
}
