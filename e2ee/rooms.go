package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

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

// roomTable is what a device knows of its rooms.
type roomTable struct {
	*part
	host roomTableHost

	known map[id.RoomID]*room
	news  int // counts changes that a sync in flight may not know of
}

// roomTableHost is what roomTable needs of the other parts.
type roomTableHost interface {
	listMembers(ctx context.Context, roomID id.RoomID, last bool) (map[id.UserID]string, error)
}

// room is what a device knows of a room. It is guarded by the Device.
type room struct {
	row        store.Room
	encrypted  bool   // row.Algorithm is set, from the store or the homeserver
	visibility string // empty: not known
	// members are all users with a membership other than leave; nil: not loaded.
	members map[id.UserID]string
	// loading is the fetch of the members in progress.
	loading *memberFetch
	// narrowed counts changes that may have removed recipients from the room.
	narrowed int
}

// roomState returns the room's entry, loaded on first use. The caller holds mu.
func (rt *roomTable) roomState(ctx context.Context, roomID id.RoomID) (*room, error) {
	if r := rt.known[roomID]; r != nil {
		return r, nil
	}
	if err := rt.readRooms(ctx, roomID); err != nil {
		return nil, err
	}
	return rt.known[roomID], nil
}

// loadRooms loads the entries of rooms that are not in memory, with one query. The caller
// holds mu.
func (rt *roomTable) loadRooms(ctx context.Context, updates []RoomUpdate) error {
	var missing []id.RoomID
	for _, u := range updates {
		if rt.known[u.RoomID] == nil && len(u.RoomID) <= wire.MaxIDLength {
			missing = append(missing, u.RoomID)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return rt.readRooms(ctx, missing...)
}

// KnownEncrypted reports whether the room is known to be encrypted, without any request.
func (d *Device) KnownEncrypted(roomID id.RoomID) bool {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	r := d.roomTable.known[roomID]
	return r != nil && r.encrypted || d.eng.encrypted.isCached(roomID)
}

// RoomEncryption returns whether a room is encrypted. An encrypted room stays encrypted for
// ever (requirement 20.3). For any other the homeserver is asked each time, so that nothing
// is sent in clear after somebody encrypts it (requirement 20.6).
func (d *Device) RoomEncryption(ctx context.Context, roomID id.RoomID) (RoomEncryption, error) {
	d.core.Mu.Lock()
	r, err := d.roomTable.roomState(ctx, roomID)
	if err != nil {
		d.core.Mu.Unlock()
		return RoomUnknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	if r.encrypted {
		defer d.core.Mu.Unlock()
		return r.encryption(), nil
	}
	d.core.Mu.Unlock()

	got, err := d.eng.findEncryption(ctx, d.acct.User, roomID, d.roomTable.readState)
	var up *wire.UpstreamError
	switch {
	case errors.Is(err, core.ErrNotYetEncrypted):
		return RoomUnknown, err
	case errors.As(err, &up) && (up.Status == http.StatusForbidden || up.Status == http.StatusUnauthorized):
		return RoomUnknown, err // not in the room, or no valid token: the homeserver's own answer explains it
	case err != nil:
		return RoomUnknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	case got.fact.Algorithm != "":
		return d.roomTable.adoptRoom(ctx, roomID, got.fact)
	case got.plain:
		return RoomPlain, nil
	}
	if err := d.NoteEncryption(ctx, roomID, got.content); err != nil {
		return RoomUnknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	return d.roomTable.noted(ctx, roomID)
}

// namesAlgorithm reports whether a content can be that of m.room.encryption.
func namesAlgorithm(content json.RawMessage) bool {
	algorithm, _, _ := parseEncryption(content)
	return algorithm != ""
}

// noted returns the room's encryption after it was recorded.
func (rt *roomTable) noted(ctx context.Context, roomID id.RoomID) (RoomEncryption, error) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		return RoomUnknown, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	return r.encryption(), nil
}

func (r *room) encryption() RoomEncryption {
	switch {
	case !r.encrypted:
		return RoomUnknown
	case r.row.Algorithm == wire.AlgorithmMegolm:
		return RoomEncrypted
	default:
		return RoomUnsupported
	}
}

// NoteEncryption records the content of a room's current m.room.encryption event.
func (d *Device) NoteEncryption(ctx context.Context, roomID id.RoomID, content []byte) error {
	ctx = context.WithoutCancel(ctx)
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	s := d.core.Begin()
	if err := d.roomTable.applyEncryption(ctx, s, roomID, content); err != nil {
		return err
	}
	return commitRooms(ctx, s)
}

// applyEncryption stages the content of an m.room.encryption event. The algorithm of an
// encrypted room never changes (requirement 0.8, attack A22); the rotation limits are those
// of the current event, clamped (attack A21).
func (rt *roomTable) applyEncryption(ctx context.Context, s *core.Step, roomID id.RoomID, content json.RawMessage) error {
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

// applyVisibility stages a history visibility.
func (rt *roomTable) applyVisibility(ctx context.Context, s *core.Step, roomID id.RoomID, v string) error {
	r, err := rt.change(ctx, s, roomID)
	if err != nil {
		return err
	}
	switch v {
	case "joined", "invited", "shared", "world_readable":
	default:
		v = defaultVisibility
	}
	if r.visibility != "" && r.visibility != v {
		r.narrowed++
	}
	r.visibility = v
	if r.row.HistoryVisibility != v && r.encrypted {
		r.row.HistoryVisibility, r.stored = v, true
	}
	return nil
}

// NoteVisibility records a history visibility that the homeserver has just accepted from the client.
func (d *Device) NoteVisibility(ctx context.Context, roomID id.RoomID, visibility string) error {
	ctx = context.WithoutCancel(ctx)
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.roomTable.news++
	s := d.core.Begin()
	if err := d.roomTable.applyVisibility(ctx, s, roomID, visibility); err != nil {
		return err
	}
	err := commitRooms(ctx, s)
	if r := d.roomTable.known[roomID]; err != nil && r != nil {
		r.visibility = "" // the next use fetches it
		r.narrowed++
	}
	return err
}

// refetchVisibility makes the next use fetch the room's history visibility again.
func (r *roomStep) refetchVisibility() {
	r.visibility = ""
	r.narrowed++
	if r.row.HistoryVisibility != "" {
		r.row.HistoryVisibility, r.stored = "", true
	}
}

// visibilityOf reads an m.room.history_visibility content; empty when it is invalid.
func visibilityOf(content json.RawMessage) string {
	obj, err := strictjson.Parse(content)
	if err != nil {
		return ""
	}
	v, _ := obj.Text("history_visibility")
	return v
}

// shareable reports whether a history visibility lets later members read what was
// sent before (requirement 9.5).
func shareable(visibility string) bool {
	return visibility == "shared" || visibility == "world_readable"
}
