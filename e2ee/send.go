package e2ee

import (
	"context"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
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
	if done, ok, err := d.outbound.Repeated(ctx, out); err != nil || ok {
		return done, err
	}
	if !d.schedule.live.Current(d.core.Env.Now()) {
		if err := d.catchUp(ctx); err != nil {
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
	}
	if err := d.checkMaySend(ctx); err != nil {
		return Encrypted{}, err
	}
	for range maxRounds {
		to, err := d.rooms.Recipients(ctx, out.RoomID)
		if errors.Is(err, core.ErrRoomChanged) {
			continue
		}
		if err != nil {
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
		who, err := d.eligible(ctx, out.RoomID, to.Users)
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
		done, err := d.outbound.Encrypt(ctx, out, to, &who.Recipients)
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

// maxRounds bounds how often a send begins again because somebody left the room or lost the
// right to the key while it was shared.
const maxRounds = 4

// Sent remembers the event ID that the homeserver returned. If it is lost, a retry sends
// the same ciphertext with the same transaction ID, and the homeserver returns the same
// event.
func (d *Device) Sent(out Outgoing, event id.EventID) { d.outbound.Sent(out, event) }
