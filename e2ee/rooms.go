package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// What is known of rooms is in package rooms.

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
	return d.rooms.NoteMembership(ctx, room, user, membership)
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
		s.After(h.Device.kickLocked)
	}
}
