package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// That a room is encrypted is recorded for the whole database, not for a device: once one
// device has learned it, it holds for every account, device and token, for ever, also if
// the homeserver stops showing the state event (requirements 0.8, 20.3). That a room is
// plain is never remembered: every send asks.
//
// A room that replaces an encrypted one may be encrypted, too: nothing is sent there until
// it shows m.room.encryption.

const (
	// cachedEncrypted bounds the encrypted rooms in memory, for all accounts; the others
	// are looked up in the database.
	cachedEncrypted = 1 << 14
	// cachedLineages bounds the cached predecessors of rooms, for each user who asked. They
	// never change: m.room.create names them.
	cachedLineages = 1 << 12
	// maxLineage bounds how many room upgrades are followed back.
	maxLineage = 4
)

// StateReader returns the content of a room's state event with an empty state key, as the
// homeserver shows it to one user. [ErrNoState] means that there is none, [ErrNotInRoom]
// that the user is not shown it. With every other error nothing is known.
type StateReader func(ctx context.Context, room id.RoomID, eventType string) (json.RawMessage, error)

// encryptedRooms is what is known of rooms for the whole database.
type encryptedRooms struct {
	store    *store.DB
	known    *lru.Cache[id.RoomID, store.EncryptedRoom] // with their algorithm: that never changes
	lineages *lru.Cache[roomQuery, []id.RoomID]         // nearest first
}

// roomQuery is a user's question about a room: users may be shown different answers.
type roomQuery struct {
	user id.UserID
	room id.RoomID
}

func newEncryptedRooms(db *store.DB) (*encryptedRooms, error) {
	known, err := lru.New[id.RoomID, store.EncryptedRoom](cachedEncrypted)
	if err != nil {
		return nil, fmt.Errorf("make the cache of encrypted rooms: %w", err)
	}
	lineages, err := lru.New[roomQuery, []id.RoomID](cachedLineages)
	if err != nil {
		return nil, fmt.Errorf("make the cache of rooms that were replaced: %w", err)
	}
	return &encryptedRooms{store: db, known: known, lineages: lineages}, nil
}

// lookUp returns those of the rooms that are known to be encrypted. It takes one query, or
// none.
func (r *encryptedRooms) lookUp(ctx context.Context, rooms ...id.RoomID) (map[id.RoomID]store.EncryptedRoom, error) {
	var ask []id.RoomID
	all := make(map[id.RoomID]store.EncryptedRoom)
	for _, room := range rooms {
		if fact, ok := r.known.Get(room); ok {
			all[room] = fact
		} else if len(room) <= wire.MaxIDLength {
			ask = append(ask, room)
		}
	}
	if len(ask) == 0 {
		return all, nil
	}
	stored, err := r.store.EncryptedRooms(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("look for encrypted rooms: %w", err)
	}
	for room, fact := range stored {
		all[room] = fact
		r.cache(fact)
	}
	return all, nil
}

// cache keeps a stored fact in memory.
func (r *encryptedRooms) cache(fact store.EncryptedRoom) {
	if fact.Algorithm != "" && !r.known.Contains(fact.RoomID) {
		r.known.Add(fact.RoomID, fact)
	}
}

// isCached reports, from memory only, whether a room is known to be encrypted.
func (r *encryptedRooms) isCached(room id.RoomID) bool { return r.known.Contains(room) }

// record stores that a room is encrypted.
func (r *encryptedRooms) record(ctx context.Context, fact store.EncryptedRoom) error {
	if err := r.store.NoteEncryptedRoom(ctx, fact); err != nil {
		return fmt.Errorf("store an encrypted room: %w", err)
	}
	if fact.Algorithm == "" {
		return nil
	}
	_, err := r.lookUp(ctx, fact.RoomID) // the first algorithm may be another
	return err
}

// encryptionFound is the result of findEncryption: the room is plain, or known to be
// encrypted (fact), or the homeserver shows an m.room.encryption with this content that is
// not recorded yet.
type encryptionFound struct {
	plain   bool
	fact    store.EncryptedRoom
	content json.RawMessage
}

// findEncryption finds out for a user whether a room is encrypted: from the database, else
// from the homeserver. An error means that it cannot be told, or that the room may be
// encrypted: nothing may be sent.
func (e *Engine) findEncryption(ctx context.Context, user id.UserID, room id.RoomID, read StateReader) (encryptionFound, error) {
	facts, err := e.encrypted.lookUp(ctx, room)
	if err != nil {
		return encryptionFound{}, err
	}
	fact, known := facts[room]
	if fact.Algorithm != "" {
		return encryptionFound{fact: fact}, nil
	}
	content, err := read(ctx, room, wire.TypeEncryption)
	switch {
	case err == nil && !namesAlgorithm(content):
		// Dendrite 0.15.2 shows users who are not in a room another event if the room has
		// none.
		return encryptionFound{}, fmt.Errorf("%w: the homeserver shows another event", core.ErrCannotEncrypt)
	case err == nil:
		return encryptionFound{content: content}, nil
	case !errors.Is(err, core.ErrNoState):
		return encryptionFound{}, err
	case known:
		return encryptionFound{}, core.ErrNotYetEncrypted
	}
	replaces, err := e.replacesEncrypted(ctx, roomQuery{user, room}, read)
	switch {
	case err != nil:
		return encryptionFound{}, err
	case replaces:
		if err := e.MustEncrypt(ctx, room); err != nil {
			return encryptionFound{}, err
		}
		return encryptionFound{}, core.ErrNotYetEncrypted
	}
	if fact, ok := e.encrypted.known.Get(room); ok { // somebody encrypted it meanwhile
		return encryptionFound{fact: fact}, nil
	}
	return encryptionFound{plain: true}, nil
}

// replacesEncrypted reports whether a room replaces an encrypted one, as far as the
// database knows or the user is shown.
func (e *Engine) replacesEncrypted(ctx context.Context, about roomQuery, read StateReader) (bool, error) {
	lineage, ok := e.encrypted.lineages.Get(about)
	if !ok {
		var err error
		if lineage, err = e.readLineage(ctx, about.room, read); err != nil {
			return false, err
		}
		e.encrypted.lineages.Add(about, lineage)
	}
	if len(lineage) == 0 {
		return false, nil
	}
	facts, err := e.encrypted.lookUp(ctx, lineage...)
	return len(facts) > 0, err
}

// readLineage returns which rooms a room replaces, and records those that are encrypted.
func (e *Engine) readLineage(ctx context.Context, room id.RoomID, read StateReader) ([]id.RoomID, error) {
	lineage := []id.RoomID{}
	for range maxLineage {
		content, err := read(ctx, room, wire.TypeCreate)
		if len(lineage) > 0 && (errors.Is(err, core.ErrNoState) || errors.Is(err, core.ErrNotInRoom)) {
			break // the user is not shown rooms further back
		}
		if err != nil {
			return nil, err
		}
		if room = predecessorOf(content); room == "" {
			break
		}
		lineage = append(lineage, room)
		content, err = read(ctx, room, wire.TypeEncryption)
		switch {
		case err == nil && !namesAlgorithm(content): // another event, see findEncryption
		case err == nil:
			if err := e.NoteEncryption(ctx, room, content); err != nil {
				return nil, err
			}
		case errors.Is(err, core.ErrNoState), errors.Is(err, core.ErrNotInRoom):
		default:
			return nil, err
		}
	}
	return lineage, nil
}

// predecessorOf returns the predecessor in an m.room.create content; empty when there is
// none.
func predecessorOf(content json.RawMessage) id.RoomID {
	var c struct {
		Predecessor struct {
			RoomID id.RoomID `json:"room_id"`
		} `json:"predecessor"`
	}
	if json.Unmarshal(content, &c) != nil || len(c.Predecessor.RoomID) > wire.MaxIDLength {
		return ""
	}
	return c.Predecessor.RoomID
}

// RoomEncryption is [Device.RoomEncryption] for a user who has no device here.
func (e *Engine) RoomEncryption(ctx context.Context, user id.UserID, room id.RoomID, read StateReader) (RoomEncryption, error) {
	got, err := e.findEncryption(ctx, user, room, read)
	switch {
	case err != nil:
		return RoomUnknown, err
	case got.plain:
		return RoomPlain, nil
	case got.fact.Algorithm == "":
		if err := e.NoteEncryption(ctx, room, got.content); err != nil {
			return RoomUnknown, err
		}
		facts, err := e.encrypted.lookUp(ctx, room)
		if err != nil {
			return RoomUnknown, err
		}
		got.fact = facts[room]
	}
	switch got.fact.Algorithm {
	case "":
		return RoomUnknown, core.ErrCannotEncrypt
	case wire.AlgorithmMegolm:
		return RoomEncrypted, nil
	}
	return RoomUnsupported, nil
}

// NoteEncryption records the content of a room's current m.room.encryption event, for all
// accounts.
func (e *Engine) NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error {
	algorithm, _, _ := parseEncryption(content)
	if algorithm == "" {
		algorithm = algorithmUnknown
	}
	return e.encrypted.record(ctx, store.EncryptedRoom{RoomID: room, Algorithm: algorithm, Since: e.env.Now()})
}

// MustEncrypt records that nothing may be sent in clear to a room that shows no
// m.room.encryption yet, because it replaces an encrypted one.
func (e *Engine) MustEncrypt(ctx context.Context, room id.RoomID) error {
	return e.encrypted.record(ctx, store.EncryptedRoom{RoomID: room, Since: e.env.Now()})
}

// readRooms adds the entries of rooms that are not in memory, from what is stored for the
// device, else for the database. The caller holds mu.
func (rt *roomTable) readRooms(ctx context.Context, rooms ...id.RoomID) error {
	rows, err := rt.Env.Store.Rooms(ctx, rt.acct.Row, rt.RowID, rooms)
	if err != nil {
		return fmt.Errorf("load rooms: %w", err)
	}
	var plain []id.RoomID
	for _, room := range rooms {
		if rows[room].Algorithm == "" {
			plain = append(plain, room)
		}
	}
	facts, err := rt.eng.encrypted.lookUp(ctx, plain...)
	if err != nil {
		return err
	}
	for _, room := range rooms {
		row := rows[room]
		row.RoomID = room
		rt.known[room] = newRoom(row, facts[room])
	}
	return nil
}

// newRoom makes a room's entry of what is stored.
func newRoom(row store.Room, fact store.EncryptedRoom) *room {
	r := &room{row: row, encrypted: row.Algorithm != "", visibility: row.HistoryVisibility}
	r.adopt(fact)
	return r
}

// adopt applies what the database knows of a room. That is stored already, so it is no
// step. The rotation limits are the specification's until the current event sets others.
func (r *room) adopt(fact store.EncryptedRoom) {
	if r.encrypted || fact.Algorithm == "" {
		return
	}
	r.row.Algorithm, r.row.EncryptedSince = fact.Algorithm, fact.Since
	r.row.RotationPeriod, r.row.RotationMessages = defaultRotationPeriod, defaultRotationMessages
	r.encrypted = true
}

// adoptRoom is adopt for a room that counted as plain.
func (rt *roomTable) adoptRoom(ctx context.Context, room id.RoomID, fact store.EncryptedRoom) (RoomEncryption, error) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r, err := rt.roomState(ctx, room)
	if err != nil {
		return RoomUnknown, err
	}
	r.adopt(fact)
	return r.encryption(), nil
}

// readState is the device's StateReader.
func (rt *roomTable) readState(ctx context.Context, room id.RoomID, eventType string) (json.RawMessage, error) {
	var content json.RawMessage
	err := rt.Call(ctx, wire.Request{
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

// learnRooms caches which of the stored rooms are encrypted.
func (e *Engine) learnRooms(rows []store.Room) {
	for i := range rows {
		e.encrypted.cache(store.EncryptedRoom{RoomID: rows[i].RoomID, Algorithm: rows[i].Algorithm, Since: rows[i].EncryptedSince})
	}
}
