package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
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

// Shared is what is known of rooms for all devices of an engine.
type Shared struct {
	env      *core.Env
	known    *lru.Cache[id.RoomID, store.EncryptedRoom] // with their algorithm: that never changes
	lineages *lru.Cache[roomQuery, []id.RoomID]         // nearest first
	accepted acceptedChanges
	visible  acceptedVisibilities
	musts    atomic.Int64 // counts calls of MustEncrypt
	lists    *memberLists
}

// roomQuery is a user's question about a room: users may be shown different answers.
type roomQuery struct {
	user id.UserID
	room id.RoomID
}

// NewShared returns the knowledge of an engine. At most members users are kept in the member
// lists in memory, over all devices.
func NewShared(env *core.Env, members int) (*Shared, error) {
	known, err := lru.New[id.RoomID, store.EncryptedRoom](cachedEncrypted)
	if err != nil {
		return nil, fmt.Errorf("make the cache of encrypted rooms: %w", err)
	}
	lineages, err := lru.New[roomQuery, []id.RoomID](cachedLineages)
	if err != nil {
		return nil, fmt.Errorf("make the cache of rooms that were replaced: %w", err)
	}
	lists, err := newMemberLists(members)
	if err != nil {
		return nil, fmt.Errorf("make the list of member lists: %w", err)
	}
	lists.mu = locks.Mutex{Place: env.Order.At(locks.RankLeaf)}
	return &Shared{env: env, known: known, lineages: lineages, lists: lists}, nil
}

// LookUp returns those of the rooms that are known to be encrypted. It takes one query, or
// none.
func (sh *Shared) LookUp(ctx context.Context, rooms ...id.RoomID) (map[id.RoomID]store.EncryptedRoom, error) {
	var ask []id.RoomID
	all := make(map[id.RoomID]store.EncryptedRoom)
	for _, room := range rooms {
		if fact, ok := sh.known.Get(room); ok {
			all[room] = fact
		} else if len(room) <= wire.MaxIDLength {
			ask = append(ask, room)
		}
	}
	if len(ask) == 0 {
		return all, nil
	}
	stored, err := sh.env.Store.EncryptedRooms(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("look for encrypted rooms: %w", err)
	}
	for room, fact := range stored {
		all[room] = fact
		sh.cache(fact)
	}
	return all, nil
}

// cache keeps a stored fact in memory.
func (sh *Shared) cache(fact store.EncryptedRoom) {
	if fact.Algorithm != "" && !sh.known.Contains(fact.RoomID) {
		sh.known.Add(fact.RoomID, fact)
	}
}

// isCached reports, from memory only, whether a room is known to be encrypted.
func (sh *Shared) isCached(room id.RoomID) bool { return sh.known.Contains(room) }

// record stores that a room is encrypted.
func (sh *Shared) record(ctx context.Context, fact store.EncryptedRoom) error {
	if err := sh.env.Store.NoteEncryptedRoom(ctx, fact); err != nil {
		return fmt.Errorf("store an encrypted room: %w", err)
	}
	if fact.Algorithm == "" {
		return nil
	}
	_, err := sh.LookUp(ctx, fact.RoomID) // the first algorithm may be another
	return err
}

// found is the result of find: the room is plain, or known to be
// encrypted (fact), or the homeserver shows an m.room.encryption with this content that is
// not recorded yet.
type found struct {
	plain   bool
	fact    store.EncryptedRoom
	content json.RawMessage
}

// find finds out for a user whether a room is encrypted: from the database, else
// from the homeserver. An error means that it cannot be told, or that the room may be
// encrypted: nothing may be sent.
func (sh *Shared) find(ctx context.Context, user id.UserID, room id.RoomID, read StateReader) (found, error) {
	musts := sh.musts.Load()
	facts, err := sh.LookUp(ctx, room)
	if err != nil {
		return found{}, err
	}
	fact, known := facts[room]
	if fact.Algorithm != "" {
		return found{fact: fact}, nil
	}
	content, err := read(ctx, room, wire.TypeEncryption)
	switch {
	case err == nil && !namesAlgorithm(content):
		// Dendrite 0.15.2 shows users who are not in a room another event if the room has
		// none.
		return found{}, fmt.Errorf("%w: the homeserver shows another event", core.ErrCannotEncrypt)
	case err == nil:
		return found{content: content}, nil
	case !errors.Is(err, core.ErrNoState):
		return found{}, err
	case known:
		return found{}, core.ErrNotYetEncrypted
	}
	replaces, err := sh.replacesEncrypted(ctx, roomQuery{user, room}, read)
	switch {
	case err != nil:
		return found{}, err
	case replaces:
		if err := sh.MustEncrypt(ctx, room); err != nil {
			return found{}, err
		}
		return found{}, core.ErrNotYetEncrypted
	}
	// Somebody may have encrypted it meanwhile: here, or in another process.
	if sh.env.Store.Clustered() || sh.musts.Load() != musts {
		if facts, err = sh.LookUp(ctx, room); err != nil {
			return found{}, err
		}
		if fact, known = facts[room]; known && fact.Algorithm == "" {
			return found{}, core.ErrNotYetEncrypted
		}
	} else {
		fact, known = sh.known.Get(room)
	}
	if known {
		return found{fact: fact}, nil
	}
	return found{plain: true}, nil
}

// Forget drops from memory what the homeserver has shown users of the rooms that they are in, because
// none of their devices is used.
func (sh *Shared) Forget(users map[id.UserID]bool) {
	for _, about := range sh.lineages.Keys() {
		if users[about.user] {
			sh.lineages.Remove(about)
		}
	}
}

// replacesEncrypted reports whether a room replaces an encrypted one, as far as the
// database knows or the user is shown.
func (sh *Shared) replacesEncrypted(ctx context.Context, about roomQuery, read StateReader) (bool, error) {
	lineage, ok := sh.lineages.Get(about)
	if !ok {
		var err error
		if lineage, err = sh.readLineage(ctx, about.room, read); err != nil {
			return false, err
		}
		sh.lineages.Add(about, lineage)
	}
	if len(lineage) == 0 {
		return false, nil
	}
	facts, err := sh.LookUp(ctx, lineage...)
	return len(facts) > 0, err
}

// readLineage returns which rooms a room replaces, and records those that are encrypted.
func (sh *Shared) readLineage(ctx context.Context, room id.RoomID, read StateReader) ([]id.RoomID, error) {
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
		case err == nil && !namesAlgorithm(content): // another event, see find
		case err == nil:
			if err := sh.NoteEncryption(ctx, room, content); err != nil {
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

// Encryption is [Table.Encryption] for a user who has no device here.
func (sh *Shared) Encryption(ctx context.Context, user id.UserID, room id.RoomID, read StateReader) (Encryption, error) {
	got, err := sh.find(ctx, user, room, read)
	switch {
	case err != nil:
		return Unknown, err
	case got.plain:
		return Plain, nil
	case got.fact.Algorithm == "":
		if err := sh.NoteEncryption(ctx, room, got.content); err != nil {
			return Unknown, err
		}
		facts, err := sh.LookUp(ctx, room)
		if err != nil {
			return Unknown, err
		}
		got.fact = facts[room]
	}
	switch got.fact.Algorithm {
	case "":
		return Unknown, core.ErrCannotEncrypt
	case wire.AlgorithmMegolm:
		return Encrypted, nil
	}
	return Unsupported, nil
}

// NoteEncryption records the content of a room's current m.room.encryption event, for all
// accounts.
func (sh *Shared) NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error {
	algorithm, _, _ := parseEncryption(content)
	if algorithm == "" {
		algorithm = algorithmUnknown
	}
	return sh.record(ctx, store.EncryptedRoom{RoomID: room, Algorithm: algorithm, Since: sh.env.Now()})
}

// MustEncrypt records that nothing may be sent in clear to a room that shows no
// m.room.encryption yet, because it replaces an encrypted one.
func (sh *Shared) MustEncrypt(ctx context.Context, room id.RoomID) error {
	defer sh.musts.Add(1) // memory holds rooms with their algorithm only: who looks at one now looks again
	return sh.record(ctx, store.EncryptedRoom{RoomID: room, Since: sh.env.Now()})
}

// Learn caches which of the stored rooms are encrypted.
func (sh *Shared) Learn(rows []store.Room) {
	for i := range rows {
		sh.cache(store.EncryptedRoom{RoomID: rows[i].RoomID, Algorithm: rows[i].Algorithm, Since: rows[i].EncryptedSince})
	}
}
