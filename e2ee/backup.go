package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

const (
	algorithmBackup = "m.megolm_backup.v1.curve25519-aes-sha2"
	// backupBatch is how many room keys one backup request carries.
	backupBatch = 200
)

// backupVersion is the homeserver's newest backup.
type backupVersion struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

// currentBackup reads the newest backup version; nil when there is none.
func (d *Device) currentBackup(ctx context.Context) (*backupVersion, error) {
	var v backupVersion
	err := d.call(ctx, request{
		op: "read the backup version", method: http.MethodGet,
		path: mautrix.ClientURLPath{"v3", "room_keys", "version"}, result: &v,
	})
	if upstreamStatus(err) == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// loadBackupKey gives the private backup key that is stored; nil when there is none.
func (a *account) loadBackupKey(ctx context.Context) (*backup.MegolmBackupKey, error) {
	stored, err := a.eng.store.Secret(ctx, a.row, secretBackup)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the backup key: %w", err)
	}
	key, err := backup.MegolmBackupKeyFromBytes(stored.Value.Reveal())
	if err != nil {
		return nil, fmt.Errorf("read the backup key: %w", err)
	}
	return key, nil
}

// trusts reports whether a backup's public key belongs to a private key we hold
// (requirement 16.1): nothing is written to any other.
func (v *backupVersion) trusts(key *backup.MegolmBackupKey) bool {
	var auth struct {
		PublicKey string `json:"public_key"`
	}
	return v != nil && key != nil && v.Algorithm == algorithmBackup && json.Unmarshal(v.AuthData, &auth) == nil &&
		auth.PublicKey == b64(key.PublicKey().Bytes())
}

// ensureBackup makes a key backup if the account has none, and gives its private key;
// nil when the backup that is there is not ours.
func (d *Device) ensureBackup(ctx context.Context, keys *crossSigning) ([]byte, error) {
	current, err := d.currentBackup(ctx)
	if err != nil {
		return nil, err
	}
	key, err := d.acct.loadBackupKey(ctx)
	if err != nil {
		return nil, err
	}
	if current != nil {
		if !current.trusts(key) {
			return nil, nil
		}
		return key.Bytes(), nil
	}
	if wanted, err := d.backupWanted(ctx); err != nil || !wanted {
		return nil, err
	}
	if key == nil {
		if key, err = d.newBackupKey(ctx); err != nil {
			return nil, err
		}
	}
	return key.Bytes(), d.createBackup(ctx, key, keys)
}

// backupWanted reads the user's own choice (requirement 16.7); silence means yes.
func (d *Device) backupWanted(ctx context.Context) (bool, error) {
	raw, err := d.accountData(ctx, "m.key_backup")
	if err != nil {
		return false, err
	}
	var choice struct {
		Enabled *bool `json:"enabled"`
	}
	if raw == nil || json.Unmarshal(raw, &choice) != nil || choice.Enabled == nil {
		return true, nil
	}
	return *choice.Enabled, nil
}

func (d *Device) newBackupKey(ctx context.Context) (*backup.MegolmBackupKey, error) {
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		return nil, fmt.Errorf("make the backup key: %w", err)
	}
	row := store.Secret{Name: secretBackup, Value: secret.Bytes(key.Bytes()), CreatedAt: d.eng.now()}
	if err := d.save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return nil, fmt.Errorf("store the backup key: %w", err)
	}
	return key, nil
}

// createBackup makes a backup version signed by the identity and this device.
func (d *Device) createBackup(ctx context.Context, key *backup.MegolmBackupKey, keys *crossSigning) error {
	auth := object{{"public_key", quoted(b64(key.PublicKey().Bytes()))}}.encode()
	auth, err := signWith(auth, d.acct.user, keys.master)
	if err != nil {
		return err
	}
	d.mu.Lock()
	auth, err = d.olm.signJSON(auth, d.acct.user, d.id)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return d.call(ctx, request{
		op: "create the key backup", method: http.MethodPost,
		path: mautrix.ClientURLPath{"v3", "room_keys", "version"},
		body: map[string]any{"algorithm": algorithmBackup, "auth_data": auth},
	})
}

// backUp uploads room keys that are not in the backup, batch by batch.
func (d *Device) backUp(ctx context.Context) error {
	if d.ownNow() != ownSigned {
		return nil
	}
	key, err := d.acct.loadBackupKey(ctx)
	if err != nil || key == nil {
		return err
	}
	if d.backedUp(ctx) {
		return nil
	}
	current, err := d.currentBackup(ctx)
	if err != nil || !current.trusts(key) {
		return err
	}
	d.mu.Lock()
	d.backupIn = current.Version
	d.mu.Unlock()
	for ctx.Err() == nil {
		rows, err := d.eng.store.ToBackUp(ctx, d.acct.row, d.rowID, current.Version, backupBatch)
		if err != nil {
			return fmt.Errorf("load room keys to back up: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		if err := d.backUpBatch(ctx, key, current.Version, rows); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// backedUp reports whether nothing waits for the backup version that was last found ours.
func (d *Device) backedUp(ctx context.Context) bool {
	d.mu.Lock()
	version := d.backupIn
	d.mu.Unlock()
	if version == "" {
		return false
	}
	n, err := d.eng.store.CountToBackUp(ctx, d.acct.row, d.rowID, version)
	return err == nil && n == 0
}

// backupSession is one room key in a backup request (requirement 16.5).
type backupSession struct {
	FirstIndex     uint32 `json:"first_message_index"`
	ForwardedCount int    `json:"forwarded_count"`
	IsVerified     bool   `json:"is_verified"`
	SessionData    any    `json:"session_data"`
}

func (d *Device) backUpBatch(ctx context.Context, key *backup.MegolmBackupKey, version string, rows []store.InboundSession) error {
	rooms := make(map[id.RoomID]map[string]map[id.SessionID]backupSession)
	ch := &store.Changes{}
	for _, row := range rows {
		data, err := backupData(row, key)
		if err != nil {
			return err
		}
		if rooms[row.RoomID] == nil {
			rooms[row.RoomID] = map[string]map[id.SessionID]backupSession{"sessions": {}}
		}
		rooms[row.RoomID]["sessions"][row.SessionID] = data
		ch.Backed = append(ch.Backed, store.BackedSession{SessionRef: row.SessionRef, FirstIndex: row.FirstIndex, Version: version})
	}
	err := d.call(ctx, request{
		op: "back up room keys", method: http.MethodPut,
		path:  mautrix.ClientURLPath{"v3", "room_keys", "keys"},
		query: map[string]string{"version": version}, body: map[string]any{"rooms": rooms},
	})
	if err != nil {
		return err
	}
	if err := d.save(ctx, ch); err != nil {
		return fmt.Errorf("store what is backed up: %w", err)
	}
	return nil
}

// backupData encrypts one room key for the backup (requirements 16.3, 16.4).
func backupData(row store.InboundSession, key *backup.MegolmBackupKey) (backupSession, error) {
	sess := &session.MegolmInboundSession{}
	if err := sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
		return backupSession{}, fmt.Errorf("unpickle room key: %w", err)
	}
	exported, err := sess.Export(row.FirstIndex)
	if err != nil {
		return backupSession{}, fmt.Errorf("export room key: %w", err)
	}
	from := decodeOwner(row.Owner)
	data, err := backup.EncryptSessionDataWithPubkey(key.PublicKey(), backup.MegolmSessionData{
		Algorithm: algorithmMegolm, ForwardingKeyChain: []string{},
		SenderClaimedKeys: backup.SenderClaimedKeys{Ed25519: from.Ed25519},
		SenderKey:         from.Curve25519, SessionKey: string(exported), SharedHistory: &row.SharedHistory,
	})
	if err != nil {
		return backupSession{}, fmt.Errorf("encrypt room key for the backup: %w", err)
	}
	return backupSession{
		FirstIndex: row.FirstIndex, IsVerified: row.Source == store.SourceDirect && from.Signed, SessionData: data,
	}, nil
}
