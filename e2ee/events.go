package e2ee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/roomevents"
	"e2ee-proxy/e2ee/internal/sharedhistory"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Encrypt encrypts an event for a room and shares the room key with every device that may
// have it (docs/architecture.md, "A message into an encrypted room"). When it returns,
// everything is stored: a retry of the same transaction returns the same ciphertext
// (requirement 19.11).
func (d *Device) Encrypt(ctx context.Context, out Outgoing) (Encrypted, error) {
	if d.core.Mode != core.ModeProxied {
		return Encrypted{}, core.ErrNotProxied
	}
	give, err := d.outbound.Turn(ctx, out.RoomID)
	if err != nil {
		return Encrypted{}, err
	}
	defer give()
	txn := d.outbound.Transaction(out)
	for range minRounds {
		done, err := d.encrypt(ctx, out, txn)
		if err == nil {
			return done, nil
		}
		// What was said once is answered as it was then, whatever holds now. That is looked up
		// only here: a repetition never gets further, because it cannot be stored twice.
		before, renamed, repeated, lookup := d.outbound.Repeated(ctx, out)
		switch {
		case lookup == nil && repeated:
			return before, nil
		case lookup == nil && errors.Is(err, store.ErrTransactionTaken):
			txn = renamed
		case errors.Is(err, store.ErrTransactionTaken):
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, lookup)
		default:
			return Encrypted{}, err
		}
	}
	return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, store.ErrTransactionTaken)
}

// encrypt is Encrypt for an event that was not sent before, in a transaction.
func (d *Device) encrypt(ctx context.Context, out Outgoing, txn store.Transaction) (Encrypted, error) {
	if !d.schedule.Live.Current(d.core.Env.Now()) {
		if err := d.catchUp(ctx); err != nil {
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
	}
	if err := d.checkMaySend(ctx); err != nil {
		return Encrypted{}, err
	}
	began := d.core.Env.Now()
	for round := 0; round < minRounds || round < maxRounds && d.core.Env.Now().Sub(began) < roundsWithin; round++ {
		to, err := d.rooms.Recipients(ctx, out.RoomID)
		if errors.Is(err, core.ErrRoomChanged) {
			continue
		}
		if err != nil {
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
		who, err := d.eligible(ctx, out.RoomID, to)
		if err != nil {
			return Encrypted{}, err
		}
		err = d.outbound.Share(ctx, out.RoomID, to.Visibility, &who.Recipients)
		if errors.Is(err, core.ErrRoomChanged) {
			continue
		}
		if err != nil {
			return Encrypted{}, err
		}
		done, err := d.outbound.Encrypt(ctx, out, txn, to, &who.Recipients)
		if !errors.Is(err, core.ErrRoomChanged) {
			return done, err
		}
	}
	return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, core.ErrRoomChanged)
}

// RoomEncryption returns whether a room is encrypted. An encrypted room stays encrypted for
// ever (requirement 20.3). For any other the homeserver is asked each time, so that nothing
// is sent in clear after somebody encrypts it (requirement 20.6).
func (d *Device) RoomEncryption(ctx context.Context, room id.RoomID) (RoomEncryption, error) {
	return d.rooms.Encryption(ctx, room)
}

// A send begins again because somebody left the room, lost the right to the key or was told to have
// changed while it was shared. When a user's new device sends at once, each of their other devices
// is told of it by its own sync, one after the other.
const (
	minRounds    = 4
	maxRounds    = 32
	roundsWithin = 10 * time.Second
)

// TransactionTurn lets one request at a time send in a transaction, from before Encrypt until
// after Sent: a repetition waits for what becomes of the first request. give ends the turn.
func (d *Device) TransactionTurn(ctx context.Context, out Outgoing) (give func(), err error) {
	return d.outbound.TransactionTurn(ctx, out)
}

// Sent remembers the event ID that the homeserver returned for an event that was sent with
// the transaction ID txn. If it is lost, a retry sends the same ciphertext with the same
// transaction ID, and the homeserver returns the same event.
func (d *Device) Sent(out Outgoing, txn string, event id.EventID) { d.outbound.Sent(out, txn, event) }

// NotSent remembers that the homeserver refused an event, so that a repetition need not be looked for.
func (d *Device) NotSent(out Outgoing, txn string) { d.outbound.Sent(out, txn, "") }

// ClearTransaction returns the transaction ID with which an event goes to the homeserver in
// clear: the client's, unless that was used for something else.
func (d *Device) ClearTransaction(ctx context.Context, out Outgoing) (string, error) {
	return d.outbound.ClearTransaction(ctx, out)
}

// checkMaySend returns why the device may not send encrypted messages, nil when it may. It
// publishes keys and sets the identity up first, if need be. Others show only messages of
// devices that their owner has confirmed.
func (d *Device) checkMaySend(ctx context.Context) error {
	if d.ownIdentity.State() != ownidentity.Signed {
		if err := d.uploadNow(ctx); err != nil {
			return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
		if err := d.ownIdentity.SetUp(ctx); err != nil {
			d.core.Env.Log.Warn().Err(err).Msg("The identity could not be set up before a send")
		}
		if d.ownIdentity.State() == ownidentity.Unknown {
			if _, err := d.ownIdentity.ReadOwn(ctx, false); err != nil {
				return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
			}
		}
	}
	refusal := sendRefusal(d.ownIdentity.State(), d.acct.Settings().AllowUnsigned, d.core.Env.Policy().Send)
	if why := d.ownIdentity.SignatureTrouble(); errors.Is(refusal, core.ErrDeviceNotSigned) && why != nil && d.ownIdentity.State() == ownidentity.Unsigned {
		return why // the advice for an unsigned device does not help here
	}
	return refusal
}

// beforeJoin bounds how long a join waits for the device's keys and identity.
const beforeJoin = 5 * time.Second

// BeforeJoin publishes the device's keys and sets the identity up, if need be, before the client
// joins a room: what others send before that, this device can never read. It returns when that is
// done, or has taken too long: the join neither fails nor waits for ever because of it.
func (d *Device) BeforeJoin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, beforeJoin)
	defer cancel()
	if err := d.checkMaySend(ctx); err != nil {
		d.core.Env.Log.Debug().Err(err).Msg("A room is joined by a device that is not set up yet")
	}
}

// sendRefusal returns why a device may send nothing to encrypted rooms; nil when it may.
// That a device must be confirmed is an account setting, not part of the policy: it also
// holds while the policy is on "warn".
func sendRefusal(own ownidentity.State, allowUnsigned bool, policy trustcache.Mode) error {
	switch own {
	case ownidentity.Signed:
		return nil
	case ownidentity.Replaced:
		return core.ErrKeysReplaced
	case ownidentity.Changed:
		// If unsigned devices may send, the policy still decides about the identity.
		if allowUnsigned && (policy == trustcache.ModeWarn || policy == trustcache.ModeOff) {
			return nil
		}
		return core.ErrDeviceNotSigned
	case ownidentity.NoIdentity, ownidentity.Unsigned:
		if allowUnsigned {
			return nil
		}
		return core.ErrDeviceNotSigned
	case ownidentity.Unknown:
	}
	return fmt.Errorf("%w: the own keys are not known", core.ErrCannotEncrypt)
}

// uploadNow publishes the device's keys if that has not happened yet.
func (d *Device) uploadNow(ctx context.Context) error {
	d.publication.PublishWithin(0)
	d.core.Mu.Lock()
	uploaded := d.ownIdentity.KeysTakenLocked()
	d.core.Mu.Unlock()
	if uploaded {
		return nil
	}
	give, err := d.schedule.UpkeepTurn.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	return d.keySupply.Upload(ctx)
}

// LoadRooms loads what is stored of rooms, with one query, for [Device.KnownEncrypted]. It
// returns of how many of them anything is known, from a sync or a request.
func (d *Device) LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error) {
	return d.rooms.LoadRooms(ctx, rooms)
}

// KnownEncrypted reports whether the room is known to be encrypted, without any request.
func (d *Device) KnownEncrypted(room id.RoomID) bool { return d.rooms.KnownEncrypted(room) }

// NoteEncryption records the content of a room's current m.room.encryption event.
func (d *Device) NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error {
	return d.rooms.NoteEncryption(ctx, room, content)
}

// NoteVisibility records a history visibility that the homeserver has just accepted from the client.
func (d *Device) NoteVisibility(ctx context.Context, room id.RoomID, visibility string) error {
	return d.rooms.NoteVisibility(ctx, room, visibility)
}

// NoteMembership records a membership change that the homeserver has just accepted from the
// client, without waiting for a sync (requirement 7.6). Also if it cannot be stored, older
// member lists are refused from now on.
func (d *Device) NoteMembership(ctx context.Context, room id.RoomID, user id.UserID, membership string) error {
	d.publication.PublishWithin(0)
	if err := d.rooms.NoteMembership(ctx, room, user, membership); err != nil {
		return err
	}
	if membership == "join" && (user == "" || user == d.acct.User) {
		return d.history.Joined(ctx, room)
	}
	return nil
}

// ShareHistory gives somebody, who is about to be invited, the keys of the room's history, as
// far as that is allowed. It returns when that is done, or has taken too long: the invitation
// neither fails nor waits for ever because of it.
func (d *Device) ShareHistory(ctx context.Context, room id.RoomID, user id.UserID) {
	d.history.Share(ctx, room, user)
}

// A device is the host of its sharedhistory.History.
var _ sharedhistory.Host = host{}

// MayShareHistory implements sharedhistory.Host.
func (h host) MayShareHistory(ctx context.Context) error {
	if !h.Live.Current(h.Device.core.Env.Now()) {
		if err := h.catchUp(ctx); err != nil {
			return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
	}
	return h.checkMaySend(ctx)
}

// HearNews implements sharedhistory.Host.
func (h host) HearNews(ctx context.Context) error {
	if h.Live.ClientSyncs() {
		return nil
	}
	return h.catchUp(ctx)
}

// RoomEncryption is [Device.RoomEncryption] for a user who has no device here.
func (e *Engine) RoomEncryption(ctx context.Context, user id.UserID, room id.RoomID, read StateReader) (RoomEncryption, error) {
	return e.rooms.Encryption(ctx, user, room, read)
}

// NoteEncryption records the content of a room's current m.room.encryption event, for all
// accounts.
func (e *Engine) NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error {
	return e.rooms.NoteEncryption(ctx, room, content)
}

// MustEncrypt records that nothing may be sent in clear to a room that shows no
// m.room.encryption yet, because it replaces an encrypted one.
func (e *Engine) MustEncrypt(ctx context.Context, room id.RoomID) error {
	return e.rooms.MustEncrypt(ctx, room)
}

// MemberMoved forgets where warnings about a user are shown, and has that looked up again.
func (h host) MemberMoved(s *core.Step, room id.RoomID, user id.UserID) {
	if h.Device.acct.warnings.ForgetPlaces(room, user) {
		s.After(h.KickLocked)
	}
}

// ClientMayEncrypt reports whether the device's client has keys of its own, or may still
// upload some: the proxy has published none, and has not decided to.
func (d *Device) ClientMayEncrypt() bool {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return d.core.Mode == core.ModeForeign || d.core.Mode == core.ModeProxied && !d.publication.Allowed()
}

// ClientMayEncrypt is [Device.ClientMayEncrypt], by what is known here: nothing is asked, and
// a device that was never seen is not adopted by it.
func (e *Engine) ClientMayEncrypt(ctx context.Context, user id.UserID, device id.DeviceID) (bool, error) {
	if d := e.loaded(deviceKey{user, device}); d != nil {
		return d.ClientMayEncrypt(), nil
	}
	row, err := e.env.Store.LookupAccount(ctx, user)
	if err == nil {
		var dev store.Device
		if dev, err = e.env.Store.Device(ctx, row, device); err == nil {
			return dev.State == store.DeviceForeign || dev.State == store.DeviceOurs && !dev.KeysUploaded, nil
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, fmt.Errorf("who encrypts for a device: %w", err)
}

// Prepared is a batch of events that are decrypted, and not judged yet.
type Prepared = roomevents.Prepared

// Open opens a batch of events in one go, see [roomevents.Reader.Open].
func (d *Device) Open(ctx context.Context, in []Incoming) ([]Opened, error) {
	return d.OpenPrepared(ctx, d.Prepare(ctx, in))
}

// Prepare begins to open a batch, see [roomevents.Reader.Prepare].
func (d *Device) Prepare(ctx context.Context, in []Incoming) *Prepared {
	return d.reader().Prepare(ctx, in)
}

// Settle stores which indices a batch that was prepared uses. They come in order.
func (d *Device) Settle(ctx context.Context, p *Prepared) { d.reader().Settle(ctx, p) }

// OpenPrepared is the rest of Open, in the same order.
func (d *Device) OpenPrepared(ctx context.Context, p *Prepared) ([]Opened, error) {
	out, err := d.reader().OpenPrepared(ctx, p)
	d.searchAgain()
	if err != nil {
		return nil, err
	}
	d.hearOpened(p.Incoming(), out)
	return out, d.countUnread(ctx, p.Incoming(), out)
}
