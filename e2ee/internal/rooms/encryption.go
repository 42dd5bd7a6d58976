package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

const (
	defaultRotationPeriod   = 7 * 24 * time.Hour // requirement 9.1
	defaultRotationMessages = 100                // requirement 9.2
	minRotationPeriod       = time.Hour
	maxRotationPeriod       = 365 * 24 * time.Hour
	maxRotationMessages     = 10000
	// algorithmUnknown is the algorithm of an event that names none.
	algorithmUnknown = "unknown"
	// defaultVisibility is the history visibility of a room without the event (spec, room
	// history visibility).
	defaultVisibility = "shared"
)

// Encryption is whether a room is encrypted. The zero value means "cannot tell", and
// nothing may be sent.
type Encryption int

const (
	// Unknown means that it cannot be told; sends are refused.
	Unknown Encryption = iota
	// Plain has never been encrypted; sends pass through.
	Plain
	// Encrypted uses m.megolm.v1.aes-sha2.
	Encrypted
	// Unsupported is encrypted with an algorithm we do not know; sends are refused (requirement 20.2).
	Unsupported
)

// Encryption returns whether a room is encrypted. An encrypted room stays encrypted for
// ever (requirement 20.3). For any other the homeserver is asked each time, so that nothing
// is sent in clear after somebody encrypts it (requirement 20.6).
func (rt *Table) Encryption(ctx context.Context, roomID id.RoomID) (Encryption, error) {
	rt.Mu.Lock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		rt.Mu.Unlock()
		return Unknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	if r.encrypted {
		defer rt.Mu.Unlock()
		return r.encryption(), nil
	}
	rt.Mu.Unlock()

	got, err := rt.shared.find(ctx, rt.Account.User, roomID, rt.readState)
	var up *wire.UpstreamError
	switch {
	case errors.Is(err, core.ErrNotYetEncrypted):
		return Unknown, err
	case errors.As(err, &up) && (up.Status == http.StatusForbidden || up.Status == http.StatusUnauthorized):
		return Unknown, err // not in the room, or no valid token: the homeserver's own answer explains it
	case err != nil:
		return Unknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	case got.fact.Algorithm != "":
		return rt.adoptRoom(ctx, roomID, got.fact)
	case got.plain:
		return Plain, nil
	}
	if err := rt.NoteEncryption(ctx, roomID, got.content); err != nil {
		return Unknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	return rt.noted(ctx, roomID)
}

// namesAlgorithm reports whether a content can be that of m.room.encryption.
func namesAlgorithm(content json.RawMessage) bool {
	algorithm, _, _ := parseEncryption(content)
	return algorithm != ""
}

// noted returns the room's encryption after it was recorded.
func (rt *Table) noted(ctx context.Context, roomID id.RoomID) (Encryption, error) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		return Unknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	return r.encryption(), nil
}

func (r *room) encryption() Encryption {
	switch {
	case !r.encrypted:
		return Unknown
	case r.row.Algorithm == wire.AlgorithmMegolm:
		return Encrypted
	default:
		return Unsupported
	}
}

// NoteEncryption records the content of a room's current m.room.encryption event.
func (rt *Table) NoteEncryption(ctx context.Context, roomID id.RoomID, content []byte) error {
	ctx = context.WithoutCancel(ctx)
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	s := rt.Begin()
	if err := rt.applyEncryption(ctx, s, roomID, content, false); err != nil {
		return err
	}
	return commitRooms(ctx, s)
}

// applyEncryption stages the content of an m.room.encryption event. The algorithm of an
// encrypted room never changes (requirement 0.8, attack A22); the rotation limits are those
// of the current event, clamped (attack A21). Of a content that may be older than what is known the
// stricter limits count, where any are known.
func (rt *Table) applyEncryption(ctx context.Context, s *core.Step, roomID id.RoomID, content json.RawMessage, older bool) error {
	r, err := rt.change(ctx, s, roomID)
	if err != nil {
		return err
	}
	algorithm, period, messages := parseEncryption(content)
	row := r.row
	if row.Algorithm == "" {
		if algorithm == "" {
			algorithm = algorithmUnknown
		}
		row.Algorithm, row.EncryptedSince = algorithm, rt.Env.Now()
	} else if algorithm != row.Algorithm {
		return nil // the encryption can neither change nor end
	} else if older && (row.RotationPeriod != defaultRotationPeriod || row.RotationMessages != defaultRotationMessages) {
		period, messages = min(period, row.RotationPeriod), min(messages, row.RotationMessages)
	}
	row.RotationPeriod, row.RotationMessages = period, messages
	if r.encrypted && row == r.row {
		return nil
	}
	r.row, r.encrypted, r.stored = row, true, true
	return nil
}

// parseEncryption reads an m.room.encryption content leniently: invalid values get their
// default, extreme ones are clamped.
func parseEncryption(content json.RawMessage) (algorithm string, period time.Duration, messages int64) {
	period, messages = defaultRotationPeriod, defaultRotationMessages
	obj, err := strictjson.Parse(content)
	if err != nil {
		return "", period, messages
	}
	algorithm, _ = obj.Text("algorithm")
	var n float64
	if raw := obj.Get("rotation_period_ms"); raw != nil && json.Unmarshal(raw, &n) == nil {
		switch {
		case n >= float64(maxRotationPeriod.Milliseconds()):
			period = maxRotationPeriod
		case n > float64(minRotationPeriod.Milliseconds()):
			period = time.Duration(n) * time.Millisecond
		default:
			period = minRotationPeriod
		}
	}
	n = 0
	if raw := obj.Get("rotation_period_msgs"); raw != nil && json.Unmarshal(raw, &n) == nil {
		messages = int64(min(max(n, 1), maxRotationMessages))
	}
	return wire.Truncate(algorithm, wire.MaxIDLength), period, messages
}

// adoptRoom takes over that a room is encrypted, as another device has learned, where it
// counted as plain here.
func (rt *Table) adoptRoom(ctx context.Context, room id.RoomID, fact store.EncryptedRoom) (Encryption, error) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r, err := rt.roomState(ctx, room)
	if err != nil {
		return Unknown, err
	}
	r.adopt(fact)
	return r.encryption(), nil
}

// readState is the device's StateReader.
func (rt *Table) readState(ctx context.Context, room id.RoomID, eventType string) (json.RawMessage, error) {
	return readState(ctx, rt.Call, room, eventType)
}

func readState(ctx context.Context, call Caller, room id.RoomID, eventType string) (json.RawMessage, error) {
	var content json.RawMessage
	err := call(ctx, wire.Request{
		Op: "read the state " + eventType, Method: http.MethodGet,
		Path:   mautrix.ClientURLPath{"v3", "rooms", room, "state", eventType, ""},
		Result: &content,
	})
	var up *wire.UpstreamError
	switch {
	case err == nil:
		return content, nil
	case errors.As(err, &up) && up.Status == http.StatusNotFound && up.ErrCode == "M_NOT_FOUND":
		return nil, fmt.Errorf("%w: %w", core.ErrNoState, err)
	case errors.As(err, &up) && up.Status == http.StatusForbidden:
		return nil, fmt.Errorf("%w: %w", core.ErrNotInRoom, err)
	}
	return nil, err
}
