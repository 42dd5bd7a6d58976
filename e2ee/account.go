package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/controlroom"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/files"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownership"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/searchindex"
	"e2ee-proxy/e2ee/internal/unread"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// account is what the devices of a user share: what is known of other users, the warnings,
// the user's own identity and the backup.
type account struct {
	core.Account
	eng      *Engine
	tenure   ownership.Tenure
	warnings notices.Account
	control  controlroom.Account
	identity ownidentity.Account
	backup   ownbackup.Account
	rollout  rollout.Account
	files    files.Account
	search   searchindex.Account
	unread   unread.Account
}

func newAccount(e *Engine, row *store.Account) *account {
	a := &account{
		Account: core.Account{Env: e.env, User: row.UserID, Row: row, Tenure: e.env.NewTenure()}, eng: e,
		rollout: rollout.New(e.env), tenure: ownership.NewTenure(row, e.env.Order),
	}
	a.search = searchindex.New(&a.Account, e.search)
	a.warnings = notices.NewAccount(&a.Account, func() { e.alert(a) })
	a.control = controlroom.NewAccount(&a.Account, a.warnings.Pending, a.wakeClients)
	a.files = files.NewAccount(&a.Account, e.files)
	a.unread = unread.NewAccount(&a.Account, e.unread)
	a.identity, a.backup = ownidentity.NewAccount(&a.Account), ownbackup.NewAccount(&a.Account)
	a.Tracker = trustcache.NewTracker(e.env.Store, row, trustcache.Options{
		Cache: e.users, Answers: e.answers, Now: e.env.Now,
		Alone:                 func(ctx context.Context, own *trustcache.User) bool { return a.identity.Alone(ctx, own) },
		AcknowledgeUnverified: func() bool { return e.env.Settings(row.UserID).AcknowledgeUnverified },
		Observe:               a.observe,
	})
	return a
}

// proxied returns the account's devices whose keys are held here.
func (a *account) proxied() []*Device {
	a.eng.mu.Lock()
	defer a.eng.mu.Unlock()
	var devices []*Device
	for _, d := range a.eng.devices {
		if d.acct == a && d.core.Mode == core.ModeProxied {
			devices = append(devices, d)
		}
	}
	return devices
}

// Notices are warnings as messages in the rooms that they are about; see package notices.
const (
	// NoticeServer is the server name in the IDs of notices.
	NoticeServer = notices.Server
	// NoticeSender is the sender of notices.
	NoticeSender = notices.Sender
	// NoticeName is the display name of NoticeSender.
	NoticeName = notices.SenderName
)

// IsNoticeName reports whether an event or a user ID is one that only the proxy may use.
func IsNoticeName(name string) bool { return notices.IsName(name) }

// Notice returns a pending notice by its event ID.
func (d *Device) Notice(ctx context.Context, room id.RoomID, event id.EventID) (json.RawMessage, bool, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, false, nil
	}
	return d.shown.Notice(ctx, room, event)
}

// NoticePlace returns the sync position after which the client was shown a notice, empty if
// it was not: events up to that position are older than the notice.
func (d *Device) NoticePlace(ctx context.Context, room id.RoomID, event id.EventID) (string, error) {
	if d.core.Mode != core.ModeProxied {
		return "", nil
	}
	return d.shown.Place(ctx, room, event)
}

// Warnings returns the pending warnings, oldest first.
func (d *Device) Warnings(ctx context.Context) ([]Warning, error) {
	if !d.judges() {
		return nil, core.ErrNotProxied
	}
	return d.acct.warnings.Pending(ctx)
}

// DismissWarning dismisses a warning.
func (d *Device) DismissWarning(ctx context.Context, warning string) error {
	if !d.judges() {
		return core.ErrNotProxied
	}
	return d.acct.warnings.Dismiss(ctx, d.core, warning)
}

// BegunToKeep implements notices.Host.
func (h host) BegunToKeep() []id.Curve25519 { return h.Olm.BegunToKeep(h.GivenSince) }

// tellRecoveredAlone raises a warning that stays until it is dismissed.
func (d *Device) tellRecoveredAlone(ctx context.Context) error {
	return d.acct.warnings.TellRecoveredAlone(ctx, d.core)
}

// observe turns the tracker's events into warnings and releases withheld events, both
// stored together with what the tracker noticed. The tracker calls it under its lock.
func (a *account) observe(events []trustcache.Event, ch *store.Changes) (stored func()) {
	warned := a.warnings.Observe(events, ch)
	released := late.Release(events, ch)
	switch {
	case warned != nil:
		return warned
	case released:
		return func() { a.eng.alert(a) }
	default:
		return nil
	}
}

// reviewWarnings raises and resolves the warnings about the user's own side by the current
// state. It makes no request.
func (d *Device) reviewWarnings(ctx context.Context) error {
	if !d.ownIdentity.IsChecked() {
		return nil
	}
	return d.acct.warnings.Review(ctx, d.core, func(ctx context.Context) ([]notices.Cause, map[string]bool, error) {
		own, err := d.acct.Tracker.Own(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("look at the own devices: %w", err)
		}
		all, known := d.causes(own)
		return all, known, nil
	})
}

// recheckNow updates status and warnings after a call of the control API. If it fails, the
// next maintenance does it.
func (d *Device) recheckNow(ctx context.Context) {
	d.ownIdentity.Recheck()
	for _, step := range []func(context.Context) error{d.ownIdentity.SetUp, d.reviewWarnings} {
		if err := step(ctx); err != nil {
			d.core.Env.Log.Warn().Err(err).Msg("What was asked for is done; status and warnings follow with the next upkeep")
		}
	}
}

// causes returns the current reasons for warnings, and the codes about which enough is
// known to resolve all other warnings.
func (d *Device) causes(own *trustcache.User) (all []notices.Cause, known map[string]bool) {
	storage, backup := d.acct.identity.Storage(), d.acct.backup.Standing()
	all = d.acct.asking()
	known = map[string]bool{
		notices.CodeVerificationRequested: true,
		notices.CodeDeviceNotSigned:       own.Known(), notices.CodeStorageMissing: storage != ownidentity.StorageUnknown, notices.CodeBackupBroken: backup != keybackup.StandingUnknown,
	}
	if own.Known() && own.Current != "" {
		for i := range own.Devices {
			dev := &own.Devices[i]
			if dev.Signed || !dev.Usable() {
				continue
			}
			if here := d.eng.loaded(deviceKey{d.acct.User, dev.DeviceID}); here != nil && !here.ownIdentity.IsChecked() {
				known[notices.CodeDeviceNotSigned] = false // it is being set up
				continue
			}
			all = append(all, notices.NotSigned(dev.DeviceID))
		}
	}
	if own.Known() && own.Current == "" {
		all = append(all, notices.NoIdentity())
	}
	switch storage {
	case ownidentity.StorageMissing, ownidentity.StorageIncomplete:
		all = append(all, notices.NoStorage())
	case ownidentity.StorageUnknown, ownidentity.StorageComplete:
	}
	switch backup {
	case keybackup.StandingForeign:
		all = append(all, notices.BackupNotOurs())
	case keybackup.StandingDeleted:
		all = append(all, notices.BackupDeleted())
	case keybackup.StandingUnknown, keybackup.StandingOff, keybackup.StandingNone, keybackup.StandingSigned, keybackup.StandingOurs:
	}
	return all, known
}

// alert notifies the devices of an account that there is something to say at once. It takes
// no lock: the tracker calls it under its own.
func (e *Engine) alert(a *account) {
	select {
	case e.alerts <- a:
	default: // the queue is full; the next sync shows the warnings
	}
}

// tellAlerts delivers alerts to devices. It never waits for maintenance, which waits for
// the homeserver.
func (e *Engine) tellAlerts() {
	for {
		select {
		case <-e.env.Context.Done():
			return
		case a := <-e.alerts:
			a.alerted(e.env.Context)
		}
	}
}

// alerted wakes the clients' waiting syncs if there is something for them, and requests
// maintenance of the devices if the warnings changed.
func (a *account) alerted(ctx context.Context) {
	news := a.warnings.News()
	for _, d := range a.proxied() {
		if !news {
			d.late.WakeIfReady(ctx)
			continue
		}
		d.core.Mu.Lock()
		d.clientState.wakeWaiting()
		d.schedule.KickLocked()
		d.core.Mu.Unlock()
	}
}

// maxLocated bounds the rooms that are searched for the users of warnings.
const maxLocated = 200

// locateWarnings finds the encrypted rooms shared with the users that warnings are about,
// and chooses one for warnings about the user's own side. Unknown members are fetched: the
// next message to the room needs them anyway.
func (d *Device) locateWarnings(ctx context.Context) error {
	wanted, own, err := d.acct.warnings.Unlocated(ctx)
	if err != nil || (len(wanted) == 0 && !own) {
		return err
	}
	d.core.Mu.Lock()
	synced := d.core.Record.Row.SyncPosition != ""
	d.core.Mu.Unlock()
	if !synced {
		return nil // the device does not know its rooms yet
	}
	encrypted, err := d.joinedEncrypted(ctx)
	if err != nil {
		return err
	}
	for _, roomID := range encrypted[:min(len(encrypted), maxLocated)] {
		if len(wanted) == 0 {
			break
		}
		members, err := d.rooms.ListMembers(ctx, roomID, false)
		if code := wire.Status(err); code == http.StatusForbidden || code == http.StatusNotFound || errors.Is(err, rooms.ErrOutdatedList) {
			continue // not in that room
		}
		if err != nil {
			return err
		}
		for user := range wanted {
			if m := members[user]; m == "join" || m == "invite" {
				wanted[user] = append(wanted[user], roomID)
			}
		}
	}
	d.acct.warnings.SetPlaces(wanted, encrypted)
	d.acct.wakeClients()
	return nil
}

// wakeClients ends the waiting syncs of the account's clients.
func (a *account) wakeClients() {
	for _, d := range a.proxied() {
		d.core.Mu.Lock()
		d.clientState.wakeWaiting()
		d.core.Mu.Unlock()
	}
}

// joinedEncrypted returns the encrypted rooms that the user has joined, first the one that
// this device wrote in last.
func (d *Device) joinedEncrypted(ctx context.Context) ([]id.RoomID, error) {
	known, err := d.core.Env.Store.Rooms(ctx, d.acct.Row, d.core.RowID, nil)
	if err != nil {
		return nil, fmt.Errorf("load rooms: %w", err)
	}
	var joined struct {
		Rooms []id.RoomID `json:"joined_rooms"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "read the joined rooms", Method: http.MethodGet,
		Path: mautrix.ClientURLPath{"v3", "joined_rooms"}, Result: &joined, Large: true,
	})
	if err != nil {
		return nil, err
	}
	// What other devices have learned of rooms holds for this one, too.
	facts, err := d.eng.rooms.LookUp(ctx, joined.Rooms...)
	if err != nil {
		return nil, err
	}
	rooms := slices.DeleteFunc(joined.Rooms, func(r id.RoomID) bool {
		return known[r].Algorithm == "" && facts[r].Algorithm == ""
	})
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	since := func(r id.RoomID) time.Time { return known[r].EncryptedSince }
	slices.SortStableFunc(rooms, func(a, b id.RoomID) int {
		if c := d.outbound.BegunAt(b).Compare(d.outbound.BegunAt(a)); c != 0 {
			return c
		}
		return since(b).Compare(since(a))
	})
	return rooms, nil
}

// LinkHolder is the device that was shown a link to a file, and its session.
type LinkHolder struct {
	Device   *Device
	UserID   id.UserID
	DeviceID id.DeviceID
	Token    secret.String
}

// Linked returns whose a link to a file is (media.links). found is false for what is no link,
// for one that has ended, for a device that was logged out, and where links are off.
func (e *Engine) Linked(ctx context.Context, uri string) (of LinkHolder, found bool, err error) {
	l, ok := files.ReadLink(e.env.Store, uri)
	if !ok || !e.env.Now().Before(l.End) {
		return LinkHolder{}, false, nil
	}
	ref, err := e.env.Store.DeviceOf(ctx, l.Account, l.Device)
	if err == nil && e.env.Settings(ref.UserID).MediaLinks {
		of = LinkHolder{UserID: ref.UserID, DeviceID: ref.DeviceID}
		if of.Device, err = e.fromStore(ctx, deviceKey{ref.UserID, ref.DeviceID}, false); err == nil {
			of.Token = of.Device.core.CurrentToken()
			return of, of.Device.core.RowID == l.Device && !of.Token.IsZero(), nil
		}
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return LinkHolder{}, false, fmt.Errorf("look up a link: %w", err)
	}
	return LinkHolder{}, false, nil
}

// Files returns the encrypted files that the device's account knows.
func (d *Device) Files() *Files { return &d.acct.files }
