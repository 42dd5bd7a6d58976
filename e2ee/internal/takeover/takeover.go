package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/libolmpickle"
	"maunium.net/go/mautrix/crypto/goolm/session"
	goolm "maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// Errors of Take, each for a device of which nothing is taken.
var (
	// ErrHere means that the device is in the database already.
	ErrHere = errors.New("the device is here already")
	// ErrOtherKey means that its pickle is encrypted under another key.
	ErrOtherKey = errors.New("its keys are encrypted under another key")
	// ErrFormat means that its pickle is none of libolm's.
	ErrFormat = errors.New("its keys have a format that is not libolm's")
)

// Device is a device as another program kept it. All pickles are libolm's, under PickleKey.
type Device struct {
	UserID    id.UserID
	DeviceID  id.DeviceID
	PickleKey secret.Bytes
	Account   secret.Bytes
	// Published reports whether the homeserver has the device's keys.
	Published bool
	// Token is its access token; empty if it is not known.
	Token       secret.String
	OlmSessions []OlmSession
	RoomKeys    iter.Seq2[RoomKey, error]
	// EncryptedRooms are rooms into which nothing may be sent in clear.
	EncryptedRooms []id.RoomID
}

// OlmSession is a session with another device.
type OlmSession struct {
	ID            id.SessionID
	TheirKey      id.Curve25519
	Pickle        secret.Bytes
	Created, Used time.Time
}

// RoomKey is an inbound Megolm session. SenderKey, SigningKey and ForwardedBy are what the
// other program believed.
type RoomKey struct {
	store.SessionRef
	SenderKey   id.Curve25519
	SigningKey  id.Ed25519
	Pickle      secret.Bytes
	ForwardedBy []string
}

// Taken counts what was taken, and what could not be read.
type Taken struct {
	OlmSessions, UnreadableOlmSessions int
	RoomKeys, UnreadableRoomKeys       int
	Rooms                              int
}

// batch is how many room keys are stored at a time.
const batch = 500

// perDevice is how many Olm sessions with one device are taken, those used last.
const perDevice = 6

// Take stores a device.
func Take(ctx context.Context, db *store.DB, from Device, now time.Time) (Taken, error) {
	plain, err := unpickle(from.PickleKey, from.Account)
	if err != nil {
		return Taken{}, err
	}
	own, err := olm.LoadAccount(plain)
	if err != nil {
		return Taken{}, ErrFormat
	}
	acct, err := db.Account(ctx, from.UserID)
	if err != nil {
		return Taken{}, fmt.Errorf("take a device over: %w", err)
	}
	// Of no use before its state says otherwise.
	dev := store.Device{
		DeviceID: from.DeviceID, State: store.DeviceUnknown, Token: from.Token, KeysUploaded: from.Published,
		Ed25519: own.Ed25519.String(), Curve25519: own.Curve25519.String(), Olm: own.Pickled(),
	}
	made, err := db.CreateDevice(ctx, acct, dev)
	if errors.Is(err, store.ErrExists) {
		made, err = db.Device(ctx, acct, from.DeviceID)
		if err == nil && (made.State != store.DeviceUnknown || made.Ed25519 != dev.Ed25519) {
			err = ErrHere
		}
	}
	if err != nil {
		return Taken{}, fmt.Errorf("take a device over: %w", err)
	}
	dev.ID, dev.State = made.ID, store.DeviceOurs
	var out Taken
	for _, room := range from.EncryptedRooms {
		if err := db.NoteEncryptedRoom(ctx, store.EncryptedRoom{RoomID: room, Since: now}); err != nil {
			return out, fmt.Errorf("take a device over: %w", err)
		}
		out.Rooms++
	}
	if err := out.roomKeys(ctx, db, acct, made.ID, from, now); err != nil {
		return out, err
	}
	last := &store.Changes{Device: &dev, OlmSessions: out.olmSessions(from)}
	if err := db.Save(ctx, acct, dev.ID, last); err != nil {
		return out, fmt.Errorf("take a device over: %w", err)
	}
	return out, nil
}

// unpickle decrypts a pickle.
func unpickle(key, pickle secret.Bytes) (secret.Bytes, error) {
	plain, err := libolmpickle.Unpickle(key.Reveal(), pickle.Reveal())
	switch {
	case errors.Is(err, goolm.ErrBadMAC):
		return nil, ErrOtherKey
	case err != nil:
		return nil, ErrFormat
	}
	return plain, nil
}

// roomKeys stores the room keys that can be read.
func (t *Taken) roomKeys(ctx context.Context, db *store.DB, acct *store.Account, device int64, from Device, now time.Time) error {
	var rows []store.InboundSession
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		if err := db.Save(ctx, acct, device, &store.Changes{InboundSessions: rows}); err != nil {
			return fmt.Errorf("take room keys over: %w", err)
		}
		t.RoomKeys += len(rows)
		rows = rows[:0]
		return nil
	}
	for key, err := range from.RoomKeys {
		if err != nil {
			return fmt.Errorf("take room keys over: %w", err)
		}
		row, err := roomKey(from.PickleKey, key)
		if err != nil {
			t.UnreadableRoomKeys++
			continue
		}
		row.ReceivedAt = now
		if rows = append(rows, row); len(rows) == batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// roomKey returns the row of a room key, as if it had come in a file.
func roomKey(pickleKey secret.Bytes, key RoomKey) (store.InboundSession, error) {
	room, name := string(key.RoomID), string(key.SessionID)
	if len(room) < 2 || room[0] != '!' || len(room) > wire.MaxIDLength || len(name) > wire.MaxIDLength {
		return store.InboundSession{}, fmt.Errorf("%w: a room key without a room", strictjson.ErrMalformed)
	}
	plain, err := unpickle(pickleKey, key.Pickle)
	if err != nil {
		return store.InboundSession{}, err
	}
	var sess session.MegolmInboundSession
	if err := sess.UnpickleLibOlm(plain.Reveal()); err != nil {
		return store.InboundSession{}, ErrFormat
	}
	exported, err := sess.Export(sess.FirstKnownIndex())
	if err != nil {
		return store.InboundSession{}, ErrFormat
	}
	data := map[string]any{
		"algorithm": wire.AlgorithmMegolm, "session_key": string(exported),
		"sender_key": key.SenderKey, "sender_claimed_keys": map[string]id.Ed25519{"ed25519": key.SigningKey},
		megolm.FieldForwards: append([]string{}, key.ForwardedBy...),
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return store.InboundSession{}, fmt.Errorf("take a room key over: %w", err)
	}
	return megolm.FromData(key.SessionRef, raw, store.SourceImport, false)
}

// olmSessions returns the sessions that can be read.
func (t *Taken) olmSessions(from Device) []store.OlmSession {
	newest := slices.SortedStableFunc(slices.Values(from.OlmSessions), func(a, b OlmSession) int { return b.Used.Compare(a.Used) })
	with := make(map[id.Curve25519]int)
	var rows []store.OlmSession
	for _, s := range newest {
		plain, err := unpickle(from.PickleKey, s.Pickle)
		sess := session.NewOlmSession()
		if err != nil || sess.UnpickleLibOlm(plain.Reveal()) != nil || sess.ID() != s.ID {
			t.UnreadableOlmSessions++
			continue
		}
		if with[s.TheirKey]++; with[s.TheirKey] > perDevice {
			continue
		}
		rows = append(rows, store.OlmSession{
			SessionID: string(s.ID), TheirKey: s.TheirKey.String(), Pickle: sess.PickleLibOlm(), CreatedAt: s.Created, LastReceivedAt: s.Used,
		})
	}
	t.OlmSessions = len(rows)
	return rows
}
