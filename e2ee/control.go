package e2ee

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keyfile"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/status"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Status returns the state of the device. Parts that could not be read are problems, not
// errors.
func (d *Device) Status(ctx context.Context) (status.Status, error) {
	out := status.New(d.acct.User, d.core.ID, d.core.Mode)
	if !d.judges() {
		return out, nil
	}
	out.Policy = d.acct.rollout.Status()
	if err := d.tellTrust(ctx, &out); err != nil || d.core.Mode != core.ModeProxied {
		return out, err
	}
	out.Keys = status.Keys{Ed25519: d.core.Ed25519, Curve25519: d.core.Curve25519}
	keys, err := d.acct.identity.Keys(ctx)
	if err != nil {
		return status.Status{}, err
	}
	own, err := d.ownIdentity.ReadOwn(ctx, true)
	if err != nil {
		return status.Status{}, err
	}
	out.SetIdentity(own, keys, d.core.ID, d.ownIdentity.State(), d.ownIdentity.SignatureTrouble())
	backup, err := d.backups.View(ctx, own)
	out.SetBackup(backup, d.backups.RestoreStatus(), err)
	storage, err := d.ownIdentity.LookAtStorage(ctx, out.Backup.Readable && out.Backup.Enabled)
	out.SetStorage(storage, err)
	out.Finish(d.keySupply.HasDeadKeys(), d.publication.Refusal(), d.ownIdentity.IsChecked(), d.ownIdentity.State())
	return out, nil
}

// judges reports whether the device's owner decides through it about others: the keys of the
// device need not be the proxy's for that.
func (d *Device) judges() bool {
	return d.core.Mode == core.ModeProxied || d.core.Mode == core.ModeForeign
}

// tellTrust adds the exceptions and the warnings to a status.
func (d *Device) tellTrust(ctx context.Context, out *status.Status) error {
	overrides, err := d.acct.Tracker.Overrides(ctx)
	if err != nil {
		return fmt.Errorf("list exceptions: %w", err)
	}
	out.SetOverrides(overrides)
	pending, err := d.acct.warnings.Pending(ctx)
	out.Warnings = append(out.Warnings, pending...)
	return err
}

// Bootstrap creates what is missing of identity, secret storage and backup. It returns the
// recovery key if this or an earlier call made one that can still be read, else an empty
// one. It never replaces an identity.
func (d *Device) Bootstrap(ctx context.Context, auth core.UserAuth) (secret.String, error) {
	if d.core.Mode != core.ModeProxied {
		return secret.String{}, core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	if err := d.uploadNow(ctx); err != nil {
		return secret.String{}, err
	}
	auth, spent := d.acct.identity.WithLoginPassword(auth)
	err := d.ownIdentity.Bootstrap(ctx, auth, ownidentity.Bootstrapping{Create: true, Explicit: true})
	spent(err)
	if err != nil {
		return secret.String{}, err
	}
	switch d.ownIdentity.State() {
	case ownidentity.Signed:
	case ownidentity.Unsigned, ownidentity.Changed:
		return secret.String{}, core.ErrIdentityExists
	case ownidentity.Replaced:
		return secret.String{}, core.ErrKeysReplaced
	case ownidentity.Unknown, ownidentity.NoIdentity:
		return secret.String{}, core.ErrCannotEncrypt
	}
	d.recheckNow(ctx)
	key, err := d.RecoveryKey(ctx)
	if errors.Is(err, core.ErrNoRecoveryKey) {
		return secret.String{}, nil
	}
	return key, err
}

// RecoveryKey returns the recovery key that a bootstrap made, for 24 hours and until the
// user deletes it.
func (d *Device) RecoveryKey(ctx context.Context) (secret.String, error) {
	if d.core.Mode != core.ModeProxied {
		return secret.String{}, core.ErrNotProxied
	}
	return d.readRecoveryKey(ctx)
}

// DeleteRecoveryKey makes the key unreadable through the API. The key stays stored, sealed,
// for the machine's administrator.
func (d *Device) DeleteRecoveryKey(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	return d.ownIdentity.DeleteRecoveryKey(ctx)
}

// RecoveryKeyOnMachine returns the recovery key of an account, whatever its age, to
// somebody who can open the database.
func RecoveryKeyOnMachine(ctx context.Context, db *store.DB, user id.UserID) (secret.String, error) {
	row, err := db.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, core.ErrUnknownUser
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load account: %w", err)
	}
	acct := ownidentity.NewAccount(&core.Account{Env: &core.Env{Store: db}, Row: row, User: user})
	return acct.KeptRecoveryKey(ctx)
}

// Recover reads the identity and the backup key from secret storage and signs this device.
// Nothing is changed unless all keys match: seeds are used only if their public keys are
// the published ones (requirement 14.7).
func (d *Device) Recover(ctx context.Context, with ownidentity.Recovery) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	if err := d.uploadNow(ctx); err != nil {
		return err
	}
	if err := d.ownIdentity.Recover(ctx, with); err != nil {
		return err
	}
	d.recheckNow(ctx)
	if with.Restore {
		return d.backups.BeginRestore(ctx)
	}
	return nil
}

// Reset makes a new identity, secret storage and backup, and returns the recovery key.
func (d *Device) Reset(ctx context.Context, auth core.UserAuth) (secret.String, error) {
	return d.ResetOnce(ctx, "", auth)
}

// ResetBegun reports whether ResetOnce was begun, or done, for a request, here or by who had the
// account before.
func (d *Device) ResetBegun(ctx context.Context, request string) (bool, error) {
	if d.core.Mode != core.ModeProxied {
		return false, core.ErrNotProxied
	}
	return d.acct.identity.ResetBegun(ctx, request)
}

// ResetOnce is Reset that is done once for a request, also when that is made again by another
// replica.
func (d *Device) ResetOnce(ctx context.Context, request string, auth core.UserAuth) (secret.String, error) {
	if d.core.Mode != core.ModeProxied {
		return secret.String{}, core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	if err := d.uploadNow(ctx); err != nil {
		return secret.String{}, err
	}
	auth, spent := d.acct.identity.WithLoginPassword(auth)
	err := d.ownIdentity.Reset(ctx, request, auth)
	spent(err)
	if err != nil {
		return secret.String{}, err
	}
	d.recheckNow(ctx)
	return d.acct.identity.KeptRecoveryKey(ctx)
}

// RestoreHistory restores all room keys of the backup in the background; [Device.Status]
// reports the progress. It returns ErrNoBackup if there is no backup whose key is here.
func (d *Device) RestoreHistory(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	if err := d.backups.CheckReadable(ctx); err != nil {
		return err
	}
	return d.backups.BeginRestore(ctx)
}

// controlReason returns the control API's error for an error of trustcache.
func controlReason(err error) error {
	for reason, answer := range map[error]error{
		trustcache.ErrNoIdentity: core.ErrUnknownUser, trustcache.ErrNotCurrent: core.ErrMasterKeyNotCurrent,
		trustcache.ErrVerificationLost: core.ErrVerificationLost, trustcache.ErrNothingToWithdraw: core.ErrNotVerified,
		trustcache.ErrNoDevice: core.ErrUnknownDevice,
	} {
		if errors.Is(err, reason) {
			return fmt.Errorf("%w: %w", answer, err)
		}
	}
	return err
}

const (
	// exportRounds is the number of PBKDF2 rounds that clients use today; the spec asks for
	// at least 100,000.
	exportRounds = 500_000
	// importBatch is how many keys are stored at a time, and importBytes their total size.
	importBatch = 250
	importBytes = 1 << 20
)

// Reasons why a file is not imported.
var (
	// ErrNotAnExport means that something is no file of exported keys.
	ErrNotAnExport = keyfile.ErrNotAnExport
	// ErrExportTooCostly means that a file asks for more work than any client's does.
	ErrExportTooCostly = keyfile.ErrTooCostly
	// ErrWrongPassphrase means that a passphrase does not open a file, or the file is damaged.
	ErrWrongPassphrase = keyfile.ErrWrongPassphrase
)

// Imported is the result of an import.
type Imported struct {
	Total    int `json:"total"`
	Imported int `json:"imported"` // not known before
	Refused  int `json:"refused"`  // malformed
}

// ExportKeys writes all room keys of the device in the standard file format. If the export
// cannot begin, nothing is written.
func (d *Device) ExportKeys(ctx context.Context, passphrase secret.String, w io.Writer) error {
	return d.exportKeys(ctx, passphrase, exportRounds, w)
}

func (d *Device) exportKeys(ctx context.Context, passphrase secret.String, rounds uint32, w io.Writer) error {
	if err := d.handles(ctx, audit.KindExport); err != nil {
		return err
	}
	out, err := keyfile.NewWriter(passphrase, rounds, w)
	if err != nil {
		return err
	}
	first := true
	for row, err := range d.core.Env.Store.AllInboundSessions(ctx, d.acct.Row, d.core.RowID) {
		if err != nil {
			return fmt.Errorf("load room keys: %w", err)
		}
		entry, _, err := megolm.Data(&row)
		if err != nil {
			return err
		}
		before := byte(',')
		if first {
			before, first = '[', false
		}
		entry = entry.Set("room_id", strictjson.Quote(row.RoomID.String())).Set("session_id", strictjson.Quote(row.SessionID.String()))
		if err := out.Write(append([]byte{before}, entry.Encode()...)); err != nil {
			return err
		}
	}
	end := []byte("]")
	if first {
		end = []byte("[]")
	}
	return out.End(end)
}

// A file is imported in three passes, so that it need not be in memory: the first checks
// that it is authentic, the second that it is a list of keys and not too long, and only the
// third stores keys.

// ImportKeys imports room keys from a file in the standard format; every call of open
// returns a new reader of it. The keys prove nothing about senders: messages decrypted with
// them are shown grey, source import.
func (d *Device) ImportKeys(ctx context.Context, passphrase secret.String, open func() io.Reader) (Imported, error) {
	if err := d.handles(ctx, audit.KindImport); err != nil {
		return Imported{}, err
	}
	file, err := keyfile.Open(passphrase, open)
	if err != nil {
		return Imported{}, err
	}
	defer d.kick() // imported keys go into the backup
	if err := file.Check(); err != nil {
		return Imported{}, err
	}
	var out Imported
	var rows []store.InboundSession
	held := 0
	flush := func() error {
		kept, err := d.inbound.KeepKept(ctx, rows)
		out.Imported += kept
		rows, held = rows[:0], 0
		return err
	}
	err = file.Each(func(raw []byte) error {
		out.Total++
		row, err := importedSession(bytes.Clone(raw))
		if err != nil {
			out.Refused++
			return nil
		}
		rows = append(rows, row)
		if held += len(raw); len(rows) < importBatch && held < importBytes {
			return nil
		}
		return flush()
	})
	if err != nil {
		return out, err
	}
	return out, flush()
}

// importedSession parses one entry of a file.
func importedSession(raw []byte) (store.InboundSession, error) {
	entry, err := strictjson.Parse(raw)
	if err != nil {
		return store.InboundSession{}, err
	}
	room, _ := entry.Text("room_id")
	session, _ := entry.Text("session_id")
	if room == "" || session == "" || len(room) > wire.MaxIDLength || len(session) > wire.MaxIDLength {
		return store.InboundSession{}, fmt.Errorf("%w: an exported key", strictjson.ErrMalformed)
	}
	ref := store.SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(session)}
	return megolm.FromData(ref, raw, store.SourceImport, false)
}
