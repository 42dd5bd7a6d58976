package e2ee

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/keyfile"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// What tests of this package from outside need of its inside.

// SendOlm sends anything over Olm to a device, whatever a well-behaved device would do.
func (d *Device) SendOlm(ctx context.Context, eventType string, content json.RawMessage, user id.UserID, device id.DeviceID) error {
	users, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), []id.UserID{user})
	if err != nil {
		return err
	}
	dev := users[user].Device(device)
	if dev == nil {
		return errors.New("no such device")
	}
	claimed, err := d.channel.ClaimFor(ctx, []*trustcache.Device{dev})
	if err != nil {
		return err
	}
	d.core.Mu.Lock()
	s := d.core.Begin()
	sealed, _, err := d.channel.EncryptAll(ctx, s, eventType, content, []*trustcache.Device{dev}, claimed)
	if err != nil || len(sealed) == 0 {
		d.core.Mu.Unlock()
		return errors.Join(err, errors.New("not encrypted"))
	}
	s.Changes.Outbox = olm.OutboxItems("m.room.encrypted", sealed, d.core.Env.Now())
	s.After(d.channel.OutboxFilled)
	err = s.Commit(ctx, "a message of a test")
	d.core.Mu.Unlock()
	if err != nil {
		return err
	}
	return d.channel.FlushOutbox(ctx)
}

// LeaveAsBefore puts a message for devices into the outbox, in one request, as a program did that stored
// nothing of what it gives.
func (d *Device) LeaveAsBefore(ctx context.Context, eventType string, content json.RawMessage, to []UserDevice) error {
	var devices []*trustcache.Device
	for _, one := range to {
		users, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), []id.UserID{one.UserID})
		if err != nil {
			return err
		}
		devices = append(devices, users[one.UserID].Device(one.DeviceID))
	}
	claimed, err := d.channel.ClaimFor(ctx, devices)
	if err != nil {
		return err
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	s := d.core.Begin()
	sealed, _, err := d.channel.EncryptAll(ctx, s, eventType, content, devices, claimed)
	if err != nil || len(sealed) != len(to) {
		return errors.Join(err, errors.New("not encrypted"))
	}
	s.Changes.Outbox = olm.OutboxItems("m.room.encrypted", sealed, d.core.Env.Now())
	for i := range s.Changes.Outbox {
		s.Changes.Outbox[i].TxnID = rand.Text()
	}
	s.After(d.channel.OutboxFilled)
	return s.Commit(ctx, "a message of a test")
}

// InOutbox returns how many requests to devices are stored that were not sent yet.
func (d *Device) InOutbox(ctx context.Context) (int, error) {
	items, err := d.core.Env.Store.Outbox(ctx, d.acct.Row, d.core.RowID)
	return len(items), err
}

// HoldsPassword reports whether the password of a login is kept.
func (d *Device) HoldsPassword() bool {
	auth, _ := d.acct.identity.WithLoginPassword(core.UserAuth{})
	return !auth.Password.IsZero()
}

// Maintain does at once what the engine's workers do when they get to it.
func (d *Device) Maintain(ctx context.Context) { d.maintain(ctx) }

// AskForKeys asks at once for the room keys that events wait for.
func (d *Device) AskForKeys(ctx context.Context) error {
	d.core.Mu.Lock()
	d.gossip.AskKeysNow()
	d.core.Mu.Unlock()
	return errors.Join(d.gossip.RequestKeys(ctx), d.channel.FlushOutbox(ctx))
}

// AskNoKeys has the device ask for none of the room keys that events wait for by now, however
// long they do.
func (d *Device) AskNoKeys() {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.gossip.AskKeysLater()
	d.gossip.Stop()
}

// Recipients returns who is to read what is sent into a room.
func (d *Device) Recipients(ctx context.Context, room id.RoomID) ([]id.UserID, error) {
	to, err := d.rooms.Recipients(ctx, room)
	if err != nil {
		return nil, err
	}
	return to.Users, nil
}

// Recall does what somebody does who read an account's row and was slow.
func (e *Engine) Recall(row *store.Account) { e.owned.Of(row) }

// ExportCheaply is ExportKeys with a passphrase that is cheap to guess.
func (d *Device) ExportCheaply(ctx context.Context, passphrase secret.String, w io.Writer) error {
	return d.exportKeys(ctx, passphrase, 10, w)
}

// Settled reports whether the identity was looked at since something last changed.
func (d *Device) Settled() bool { return d.ownIdentity.IsChecked() }

// SyncNow makes one sync of the proxy's own.
func (d *Device) SyncNow(ctx context.Context) error { return d.catchUp(ctx) }

// Secrets returns the names of the secrets that are stored, and their values.
func (d *Device) Secrets(ctx context.Context) (map[string]string, error) {
	all, err := d.core.Env.Store.Secrets(ctx, d.acct.Row)
	out := make(map[string]string, len(all))
	for _, s := range all {
		out[s.Name] = wire.Base64(s.Value.Reveal())
	}
	return out, err
}

// AskedFor returns the request IDs under which other devices were asked for secrets.
func (d *Device) AskedFor() map[string]string {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	all, err := d.core.Env.Store.Secrets(context.Background(), d.acct.Row)
	if err != nil {
		return map[string]string{"": err.Error()}
	}
	out := make(map[string]string)
	for _, row := range all {
		var ask struct {
			ID string `json:"id"`
		}
		if name, ours := strings.CutPrefix(row.Name, identity.AskedName(d.core.Ed25519, "")); ours && json.Unmarshal(row.Value.Reveal(), &ask) == nil {
			out[name] = ask.ID
		}
	}
	return out
}

// Own returns what is known of the own user.
func (d *Device) Own(ctx context.Context) (*trustcache.User, error) { return d.acct.Tracker.Own(ctx) }

// PutSecret replaces a stored secret.
func (d *Device) PutSecret(ctx context.Context, s store.Secret) error {
	return d.core.Save(ctx, &store.Changes{Secrets: []store.Secret{s}})
}

// DropSecret deletes stored secrets.
func (d *Device) DropSecret(ctx context.Context, names ...string) error {
	return d.core.Save(ctx, &store.Changes{DeleteSecrets: names})
}

// InboundSessions returns all room keys of the device.
func (d *Device) InboundSessions(ctx context.Context) ([]store.InboundSession, error) {
	var out []store.InboundSession
	for s, err := range d.core.Env.Store.AllInboundSessions(ctx, d.acct.Row, d.core.RowID) {
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// SealExport makes a file of exported keys whose text is plain.
func SealExport(passphrase secret.String, plain []byte) ([]byte, error) {
	var file bytes.Buffer
	w, err := keyfile.NewWriter(passphrase, 10, &file)
	if err != nil {
		return nil, err
	}
	err = w.End(bytes.Clone(plain))
	return file.Bytes(), err
}

// OpenExport returns the text of a file of exported keys.
func OpenExport(passphrase secret.String, file []byte) ([]byte, error) {
	opened, err := keyfile.Open(passphrase, KeyFile(file))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	err = opened.Each(func(raw []byte) error {
		entries = append(entries, bytes.Clone(raw))
		return nil
	})
	return slices.Concat([]byte("["), bytes.Join(entries, []byte(",")), []byte("]")), err
}

// KeyFile returns a file of keys that is in memory.
func KeyFile(file []byte) func() io.Reader {
	return func() io.Reader { return bytes.NewReader(file) }
}

// SignJSON signs an object with the device's key.
func (d *Device) SignJSON(v any) (json.RawMessage, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return d.channel.Keys().SignJSON(raw, d.acct.User, d.core.ID)
}

// Reseal changes what is encrypted in an entry of the device's backup, as another client
// with the backup's key would have written it.
func (d *Device) Reseal(ctx context.Context, entry map[string]any, change func(data map[string]any)) error {
	key, err := d.BackupKey(ctx)
	if err != nil {
		return err
	}
	macKey, err := keybackup.MACKey(key)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(entry["session_data"])
	if err != nil {
		return err
	}
	var sealed backup.EncryptedSessionData[map[string]any]
	if err := json.Unmarshal(raw, &sealed); err != nil {
		return err
	}
	data, err := sealed.Decrypt(key)
	if err != nil {
		return err
	}
	change(*data)
	again, err := backup.EncryptSessionData(key, *data)
	if err != nil {
		return err
	}
	if raw, err = json.Marshal(again); err != nil {
		return err
	}
	signable, err := wire.Signable(raw)
	if err != nil {
		return err
	}
	mac := hmac.New(sha256.New, macKey)
	mac.Write(signable)
	obj, err := strictjson.Parse(raw)
	if err != nil {
		return err
	}
	entry["session_data"] = obj.Set("unsigned", fmt.Appendf(nil, `{"org.matrix.msc4048.backup_mac":%q}`, wire.Base64(mac.Sum(nil)))).Encode()
	return nil
}

// BackupKey returns the private backup key.
func (d *Device) BackupKey(ctx context.Context) (*backup.MegolmBackupKey, error) {
	stored, err := d.core.Env.Store.Secret(ctx, d.acct.Row, identity.SecretBackup)
	if err != nil {
		return nil, err
	}
	return backup.MegolmBackupKeyFromBytes(stored.Value.Reveal())
}

// Verify does what a successful verification of a user would: their identity is signed.
func (d *Device) Verify(ctx context.Context, user id.UserID) error {
	users, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), []id.UserID{user})
	if err != nil {
		return err
	}
	keys, err := d.acct.identity.Keys(ctx)
	if err != nil || keys == nil {
		return errors.Join(err, errors.New("no identity"))
	}
	signed, err := wire.SignWith(users[user].MasterRaw, d.acct.User, keys.UserSigning)
	if err != nil {
		return err
	}
	return d.acct.Tracker.SetVerified(ctx, user, signed)
}

// InMemory returns how many devices the engine has in memory, and how many sync by
// themselves.
func (e *Engine) InMemory() (devices, awake int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range e.devices {
		if d.schedule.IsAwake() {
			awake++
		}
	}
	return len(e.devices), awake
}

// Outdate has somebody's devices asked for again, as a sync does that says that they changed.
func (d *Device) Outdate(user string) {
	d.acct.Tracker.Changed(&store.Changes{}, []id.UserID{id.UserID(user)})
}

// Requery asks the homeserver about a user.
func (d *Device) Requery(ctx context.Context, user id.UserID) (*trustcache.User, error) {
	users, err := d.acct.Tracker.Query(ctx, d.core.Query(), []id.UserID{user})
	return users[user], err
}

// WaitingHistory counts the bundles of room keys that wait.
func (d *Device) WaitingHistory(ctx context.Context) (int, error) {
	waits, err := core.ReadRecord[struct {
		Bundles []json.RawMessage `json:"bundles"`
	}](ctx, d.core, identity.SecretHistory)
	return len(waits.Bundles), err
}

// KeyBegunAt returns when the room's key was made, also before anybody was given it.
func (d *Device) KeyBegunAt(room id.RoomID) time.Time {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return d.outbound.BegunAt(room)
}
