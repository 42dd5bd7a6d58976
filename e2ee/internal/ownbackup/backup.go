package ownbackup

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Backup reads and writes the account's key backup for one device.
type Backup struct {
	*core.Device
	acct *Account
	own  *ownidentity.Identity
	host Host

	fetching  fetching
	restoring restoring
	// wholeRooms are the rooms of which the backup was asked for all keys; the device's lock
	// guards it.
	wholeRooms map[id.RoomID]time.Time
}

// Host is what a Backup needs of the other parts of a device.
type Host interface {
	// KeepKept stores room keys from the backup, without those that add nothing, and returns
	// how many it stored.
	KeepKept(ctx context.Context, rows []store.InboundSession) (kept int, err error)
	// SignAsDevice adds the device's signature to an object.
	SignAsDevice(raw json.RawMessage) (json.RawMessage, error)
	// WantSecrets requests the secrets that are missing from the user's other devices.
	WantSecrets(ctx context.Context, own *trustcache.User) error
	// RetryRestore requests maintenance after a pause, because a restore failed. The caller
	// holds the device's lock.
	RetryRestore(pause time.Duration)
}

// New returns the account's backup as a device reads and writes it.
func New(dev *core.Device, acct *Account, own *ownidentity.Identity, host Host) Backup {
	return Backup{Device: dev, acct: acct, own: own, host: host}
}

// current reads the newest backup version; nil when there is none.
func (b *Backup) current(ctx context.Context) (*keybackup.Version, error) {
	var v keybackup.Version
	err := b.Call(ctx, wire.Request{
		Op: "read the backup version", Method: http.MethodGet,
		Path: mautrix.ClientURLPath{"v3", "room_keys", "version"}, Result: &v,
	})
	if wire.Status(err) == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// keyMeta is what is stored beside the backup key.
type keyMeta struct {
	// Version is the newest backup version that belonged to the key. If the homeserver has
	// none now, somebody deleted the backup.
	Version string `json:"version,omitempty"`
}

func (b *Backup) saveKey(ctx context.Context, key *backup.MegolmBackupKey, version string) error {
	meta, err := json.Marshal(keyMeta{version})
	if err != nil {
		return fmt.Errorf("encode the backup version: %w", err)
	}
	row := store.Secret{Name: identity.SecretBackup, Value: secret.Bytes(key.Bytes()), Meta: meta, CreatedAt: b.Env.Now()}
	if err := b.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return fmt.Errorf("store the backup key: %w", err)
	}
	return nil
}

// CompleteBackup makes a key backup if the account has none, and otherwise looks for the
// key of the existing one, which it never replaces. It returns the private key if it is
// here.
func (b *Backup) CompleteBackup(ctx context.Context, keys *identity.Keys, storage *ssss.Key, may ownidentity.Bootstrapping) ([]byte, error) {
	wanted, said, err := b.wanted(ctx)
	if err != nil {
		return nil, err
	}
	if !wanted {
		b.acct.SetStanding(keybackup.StandingOff)
		return nil, nil
	}
	current, err := b.current(ctx)
	if err != nil {
		return nil, err
	}
	key, version, err := b.acct.key(ctx)
	switch {
	case err != nil:
		return nil, err
	case current != nil:
		private, err := b.useExisting(ctx, current, key, version, storage)
		if err != nil || private == nil || said {
			return private, err
		}
		return private, b.want(ctx) // the one who made it stopped before this
	case storage == nil || !may.Create:
		b.acct.SetStanding(keybackup.StandingNone) // there is no secret storage to keep its key for the next device
		return nil, nil
	case version != "" && !may.Explicit:
		b.acct.SetStanding(keybackup.StandingDeleted)
		return nil, nil
	case key == nil || version != "": // a deleted backup's key is not used again
		if key, err = b.newKey(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.create(ctx, key, keys); err != nil {
		return nil, err
	}
	b.acct.SetStanding(keybackup.StandingOurs)
	return key.Bytes(), b.want(ctx)
}

// ReplaceBackup makes a new backup for a new identity, unless that is done, and returns its
// private key.
func (b *Backup) ReplaceBackup(ctx context.Context, keys *identity.Keys) ([]byte, error) {
	private, _, err := b.acct.key(ctx)
	if err != nil {
		return nil, err
	}
	if private == nil {
		if private, err = b.newKey(ctx); err != nil {
			return nil, err
		}
	}
	current, err := b.current(ctx)
	if err != nil {
		return nil, err
	}
	if !current.Trusts(private) {
		if err := b.create(ctx, private, keys); err != nil {
			return nil, err
		}
	}
	return private.Bytes(), b.want(ctx)
}

// useExisting decides whether an existing backup can be used: with the stored key, or
// with the one in secret storage.
func (b *Backup) useExisting(ctx context.Context, current *keybackup.Version, key *backup.MegolmBackupKey, version string, storage *ssss.Key) ([]byte, error) {
	if !current.Trusts(key) {
		var err error
		if key, err = b.keyFrom(ctx, storage, current); err != nil {
			return nil, err
		}
	}
	if key == nil {
		own, err := b.acct.Tracker.Own(ctx)
		if err != nil {
			return nil, fmt.Errorf("look at the own identity: %w", err)
		}
		if isOwn(current, own, version) {
			b.acct.SetStanding(keybackup.StandingSigned)
		} else {
			b.acct.SetStanding(keybackup.StandingForeign)
		}
		return nil, b.host.WantSecrets(ctx, own)
	}
	if version != current.Version {
		if err := b.saveKey(ctx, key, current.Version); err != nil {
			return nil, err
		}
	}
	b.acct.SetStanding(keybackup.StandingOurs)
	return key.Bytes(), nil
}

// isOwn reports whether a backup whose private key is not here is the account's own: its
// identity has signed it, and it is not one that was replaced before by the version that is
// known. Synapse (1.163.2) shows the backup before it again when the newest is deleted, and a
// key may have been replaced because somebody else has it.
func isOwn(current *keybackup.Version, own *trustcache.User, known string) bool {
	return current.SignedBy(own) && !current.Before(known)
}

// keyFrom reads the backup key from secret storage; nil when it is missing or does
// not belong to the backup.
func (b *Backup) keyFrom(ctx context.Context, storage *ssss.Key, current *keybackup.Version) (*backup.MegolmBackupKey, error) {
	if storage == nil {
		return nil, nil
	}
	value, err := ownidentity.ReadSecret(ctx, b.Device, storage, identity.SecretBackup)
	if ownidentity.IsRecoveryReason(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := backup.MegolmBackupKeyFromBytes(value.Reveal())
	if err != nil || !current.Trusts(key) {
		return nil, nil
	}
	return key, nil
}

// wanted reads from account data whether the user wants a backup (requirement 16.7).
// The default is yes; said is false when there is no valid choice.
func (b *Backup) wanted(ctx context.Context) (wanted, said bool, err error) {
	raw, err := b.AccountData(ctx, keybackup.AccountDataWanted)
	if err != nil {
		return false, false, err
	}
	var choice struct {
		Enabled *bool `json:"enabled"`
	}
	if raw != nil && json.Unmarshal(raw, &choice) == nil && choice.Enabled != nil {
		return *choice.Enabled, true, nil
	}
	if raw, err = b.AccountData(ctx, keybackup.AccountDataDisabled); err != nil {
		return false, false, err
	}
	var older struct {
		Disabled bool `json:"disabled"`
	}
	refused := raw != nil && json.Unmarshal(raw, &older) == nil && older.Disabled
	return !refused, refused, nil
}

// View is the account's backup, as the homeserver shows it.
type View struct {
	// wanted is false when the user has switched key backup off.
	Wanted bool
	// version is empty when there is none; deleted reports whether there was one then.
	Version string
	Deleted bool
	// trusted reports whether it is known to be the account's own (requirement 16.1),
	// readable whether its private key is here.
	Trusted, Readable bool
	// count is how many room keys it has, as the homeserver says, and pending how many of
	// this device still have to be uploaded.
	Count, Pending int
}

// View reads how the account's backup stands.
func (b *Backup) View(ctx context.Context, own *trustcache.User) (View, error) {
	var out View
	var err error
	if out.Wanted, _, err = b.wanted(ctx); err != nil {
		return out, err
	}
	current, err := b.current(ctx)
	if err != nil {
		return out, err
	}
	key, known, err := b.acct.key(ctx)
	if err != nil {
		return out, err
	}
	if current == nil {
		out.Deleted = known != ""
		return out, nil
	}
	out.Version, out.Count = current.Version, current.Count
	out.Readable = current.Trusts(key)
	out.Trusted = out.Readable || isOwn(current, own, known)
	if !out.Wanted || !out.Trusted {
		return out, nil
	}
	if out.Pending, err = b.Env.Store.CountToBackUp(ctx, b.acct.Row, b.RowID, current.Version); err != nil {
		return out, fmt.Errorf("count room keys to back up: %w", err)
	}
	return out, nil
}

// want tells the user's other clients, in account data, that there is a backup.
func (b *Backup) want(ctx context.Context) error {
	return b.SetAccountData(ctx, keybackup.AccountDataWanted, map[string]bool{"enabled": true})
}

func (b *Backup) newKey(ctx context.Context) (*backup.MegolmBackupKey, error) {
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		return nil, fmt.Errorf("make the backup key: %w", err)
	}
	return key, b.saveKey(ctx, key, "")
}

// create makes a backup version, signed by the identity and this device. The version
// is stored beside the key only once the homeserver shows it.
func (b *Backup) create(ctx context.Context, key *backup.MegolmBackupKey, keys *identity.Keys) error {
	auth := strictjson.Object{{Name: "public_key", Value: strictjson.Quote(wire.Base64(key.PublicKey().Bytes()))}}.Encode()
	auth, err := wire.SignWith(auth, b.acct.User, keys.Master)
	if err != nil {
		return err
	}
	if auth, err = b.host.SignAsDevice(auth); err != nil {
		return err
	}
	var made struct {
		Version string `json:"version"`
	}
	err = b.Call(ctx, wire.Request{
		Op: "create the key backup", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "room_keys", "version"},
		Body: map[string]any{"algorithm": keybackup.AlgorithmBackup, "auth_data": auth}, Result: &made,
	})
	if err != nil {
		return err
	}
	return b.saveKey(ctx, key, made.Version)
}
