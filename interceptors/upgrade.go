package interceptors

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// POST rooms/{roomId}/upgrade. The homeserver makes a new room in the place of an old one
// and copies a part of its state that it chooses. Before the client gets the answer, the
// new room of an encrypted one is recorded as one into which nothing is sent in clear, and
// is encrypted like the old one if the homeserver has not done so. If that is refused,
// sends to it are refused. Upgrades that do not come through here are found by the new
// room's first event, at the first send (e2ee.Engine).

// upgrade handles [Upgrade].
func (r *rooms) upgrade(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	room, err := x.RoomParam()
	if err != nil {
		return err
	}
	raw, err := x.ReadObject()
	if err != nil {
		return err
	}
	if next := successor(x, room); next != "" {
		r.encryptSuccessor(context.WithoutCancel(x.Request.Context()), x, dev, room, next)
		return x.WriteJSON(map[string]id.RoomID{"replacement_room": next})
	}
	// A room that may be encrypted is treated as encrypted, which loses nothing.
	state, err := r.encryption(x, dev, room)
	if err == nil && state == e2ee.RoomPlain {
		x.PutBack(raw)
		return x.Upstream.Forward(x)
	}
	if err != nil && !apierr.HasCode(err, apierr.CodeClearText) {
		return err
	}
	return forwardThen(x, raw, func(ctx context.Context, answer strictjson.Object) error {
		if next := answer.TextOrEmpty("replacement_room"); exchange.ValidRoom(next) {
			r.encryptSuccessor(ctx, x, dev, room, id.RoomID(next))
		}
		return nil
	})
}

// encryptSuccessor makes sure that a new room is encrypted as the old one is. The client
// gets its answer in every case: it could not ask again without making another room.
func (r *rooms) encryptSuccessor(ctx context.Context, x *Exchange, dev Device, old, next id.RoomID) {
	log := zerolog.Ctx(ctx)
	if err := x.Devices.MustEncrypt(ctx, next); err != nil {
		log.Error().Err(err).Msg("Failed to record that a new room must be encrypted")
	}
	if content := shownEncryption(ctx, x, next); content != nil {
		if err := r.noteEncryption(ctx, x, dev, next, content); err != nil {
			log.Error().Err(err).Msg("Failed to record that a new room is encrypted")
		}
		return
	}
	content := shownEncryption(ctx, x, old)
	if content == nil { // the homeserver does not show it any more
		content = json.RawMessage(`{"algorithm":"` + megolm + `"}`)
	}
	if err := r.putSuccessor(ctx, x, dev, next, content); err != nil {
		log.Warn().Err(err).Msg("The new room of an encrypted one could not be encrypted; nothing is sent there in clear")
	}
}

// shownEncryption returns the m.room.encryption that the homeserver shows of a room; nil
// when there is none.
func shownEncryption(ctx context.Context, x *Exchange, room id.RoomID) json.RawMessage {
	raw, err := readStateAs(x)(ctx, room, typeEncryption)
	if err != nil {
		return nil
	}
	content, err := exchange.ParseObject(raw)
	if err != nil || content.TextOrEmpty("algorithm") == "" { // another event, as Dendrite returns it
		return nil
	}
	return raw
}

// putSuccessor sends the event that encrypts a new room.
func (r *rooms) putSuccessor(ctx context.Context, x *Exchange, dev Device, next id.RoomID, content []byte) error {
	resp, err := doState(ctx, x, http.MethodPut, next, typeEncryption, content)
	if err != nil {
		return fmt.Errorf("encrypt the new room: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("encrypt the new room: %w", apierr.FromResponse(resp))
	}
	return r.noteEncryption(ctx, x, dev, next, content)
}
