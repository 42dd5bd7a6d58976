package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/crypto/goolm/megolm"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

func encodeOwner(o trustcache.Owner) (secret.Bytes, error) { return keptOwner{Owner: o}.encode() }

// arrivedKey is a room key that came over Olm in this batch.
type arrivedKey struct {
	ref           store.SessionRef
	sess          *session.MegolmInboundSession
	owner         trustcache.Owner
	sharedHistory bool
	refused       bool // its sender may send nothing
}

// roomKey takes an m.room_key (requirements 7.2, 8.2, 8.7).
func (b *batch) roomKey(msg *olm.Received) {
	var key struct {
		Algorithm  string    `json:"algorithm"`
		RoomID     id.RoomID `json:"room_id"`
		SessionID  string    `json:"session_id"`
		SessionKey string    `json:"session_key"`
		// What is not true means that the key is not to be passed on, whatever its type.
		SharedHistory json.RawMessage `json:"shared_history"`
		SharedMSC3061 json.RawMessage `json:"org.matrix.msc3061.shared_history"`
	}
	if strictjson.Unmarshal(msg.Content, &key) != nil || key.Algorithm != wire.AlgorithmMegolm || key.RoomID == "" || len(key.RoomID) > wire.MaxIDLength {
		b.refused++
		return
	}
	sess, err := session.NewMegolmInboundSession([]byte(key.SessionKey))
	if err != nil || sess.ID().String() != key.SessionID { // attack A16
		b.refused++
		return
	}
	b.keys = append(b.keys, arrivedKey{
		ref:           store.SessionRef{RoomID: key.RoomID, SessionID: id.SessionID(key.SessionID)},
		sess:          sess,
		owner:         msg.Owner(),
		sharedHistory: string(key.SharedHistory) == "true" || string(key.SharedMSC3061) == "true", // requirement 17.1
	})
}

// keepRoomKeys decides which of the batch's keys are kept, with one query for all.
func (b *batch) keepRoomKeys(ctx context.Context) error {
	if len(b.keys) == 0 {
		return nil
	}
	refs := make([]store.SessionRef, len(b.keys))
	for i, k := range b.keys {
		refs[i] = k.ref
	}
	known, err := b.d.eng.store.InboundSessions(ctx, b.d.acct.row, b.d.rowID, refs)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	senders, err := b.identifyOwners(ctx)
	if err != nil {
		return err
	}
	var again []store.OwnersRef // of sessions that are known
	for _, k := range b.keys {
		if known[k.ref].SessionID != "" {
			again = append(again, store.OwnersRef{SessionRef: k.ref, UserID: k.owner.UserID})
		}
	}
	more, err := b.d.loadMoreOwners(ctx, again)
	if err != nil {
		return err
	}
	kept := make(map[store.SessionRef]store.InboundSession, len(b.keys))
	for _, k := range b.keys {
		if k.refused {
			b.refused++
			continue
		}
		row, err := mergeRoomKey(k, known[k.ref])
		if errors.Is(err, errAnothersKey) && decodeOwner(known[k.ref].Owner).Curve25519 != b.d.curve25519 {
			row, err = addOwner(k, known[k.ref], more, senders[k.owner.UserID])
		}
		if err != nil {
			b.refused++
			continue
		}
		row.ReceivedAt = b.d.eng.now()
		known[k.ref], kept[k.ref] = row, row
	}
	for _, row := range kept {
		b.keep(row)
	}
	return more.collect(b.ch)
}

// keep stores a room key. Why an earlier part was withheld stays known until that part is here.
func (b *batch) keep(row store.InboundSession) {
	b.ch.InboundSessions = append(b.ch.InboundSessions, row)
	b.ch.ReadyPending = append(b.ch.ReadyPending, row.SessionRef)
	if row.FirstIndex == 0 {
		b.ch.DeleteWithheld = append(b.ch.DeleteWithheld, row.SessionRef)
	}
}

// mergeRoomKey decides what to keep of a key that came over Olm and what was stored
// for the same session, if anything (requirement 8.3, attacks A12 and N2).
func mergeRoomKey(k arrivedKey, old store.InboundSession) (store.InboundSession, error) {
	was := decodeKeptOwner(old.Owner)
	proven := old.SessionID != "" && provesOwner(old.Source, was.Owner)
	if proven && !sameDevice(was.Owner, k.owner) {
		return store.InboundSession{}, errAnothersKey
	}
	if proven {
		k.owner = k.owner.Keep(was.Owner)
	}
	ownerJSON, err := keptOwner{Owner: k.owner, Contested: proven && was.Contested}.encode()
	if err != nil {
		return store.InboundSession{}, err
	}
	fresh := store.InboundSession{
		SessionRef: k.ref, Pickle: k.sess.PickleLibOlm(), Owner: ownerJSON, Source: store.SourceDirect,
		FirstIndex: k.sess.FirstKnownIndex(), SharedHistory: k.sharedHistory,
	}
	if old.SessionID == "" {
		return fresh, nil
	}
	joined, err := k.leadsTo(old)
	if err != nil {
		return store.InboundSession{}, err
	}
	if old.Source == store.SourceDirect {
		if !joined || old.FirstIndex <= fresh.FirstIndex {
			return store.InboundSession{}, errKeyKnown
		}
		return fresh, nil
	}
	// What a backup, a forward or an import claims of the owner proves nothing unless it is
	// attested: the direct key's owner stands alone. An earlier ratchet is kept only if it
	// leads to the direct one.
	if joined && old.FirstIndex < fresh.FirstIndex {
		fresh.Pickle, fresh.FirstIndex = old.Pickle, old.FirstIndex
		fresh.SharedHistory = fresh.SharedHistory && old.SharedHistory
		fresh.BackupVersion = old.BackupVersion
	}
	return fresh, nil
}

// addOwner adds the sender of a room key to the owners of a session that somebody else has
// shown to be theirs. Its ratchet must be the one that is stored: it is taken where it
// begins earlier, and never takes the place of another (attack N2). What was known of the
// first owner stays as it was.
func addOwner(k arrivedKey, old store.InboundSession, more *moreOwners, sender *trustcache.User) (store.InboundSession, error) {
	joined, err := k.leadsTo(old)
	if err != nil {
		return store.InboundSession{}, err
	}
	if !joined {
		return store.InboundSession{}, errKeyKnown
	}
	news := more.add(k.ref, k.owner, sender)
	if first := k.sess.FirstKnownIndex(); first < old.FirstIndex {
		old.Pickle, old.FirstIndex, old.BackupVersion, news = k.sess.PickleLibOlm(), first, "", true
	}
	if !news {
		return store.InboundSession{}, errKeyKnown
	}
	return contest(old, k.sharedHistory)
}

// contest notes that a session has more owners than the one in its row. What it says of
// its history holds only as far as all of them say so.
func contest(row store.InboundSession, sharedHistory bool) (store.InboundSession, error) {
	row.SharedHistory = row.SharedHistory && sharedHistory
	owner := decodeKeptOwner(row.Owner)
	if !owner.Contested {
		row.BackupVersion = "" // where it may say that it is the first owner's alone
	}
	owner.Contested = true
	var err error
	row.Owner, err = owner.encode()
	return row, err
}

// leadsTo reports whether the key's ratchet and the one that is stored are one.
func (k *arrivedKey) leadsTo(old store.InboundSession) (bool, error) {
	sess := &session.MegolmInboundSession{}
	if err := sess.UnpickleLibOlm(old.Pickle.Reveal()); err != nil {
		return false, fmt.Errorf("unpickle room key: %w", err)
	}
	return connected(&sess.InitialRatchet, &k.sess.InitialRatchet), nil
}

var (
	// errKeyKnown says that a room key adds nothing to what is stored, or contradicts it.
	errKeyKnown = errors.New("the room key is known")
	// errAnothersKey says that somebody else has shown the session to be theirs.
	errAnothersKey = errors.New("the room key is somebody else's")
)

// connected reports whether two ratchets are the same one at different indices. Work
// is bounded: at most about 1,000 HMACs (attack 65).
func connected(a, b *megolm.Ratchet) bool {
	early, late := *a, *b
	if early.Counter > late.Counter {
		early, late = late, early
	}
	early.AdvanceTo(late.Counter)
	return early.Data == late.Data
}

// decodeOwner reads an owner back; an unreadable one is nobody.
func decodeOwner(raw secret.Bytes) trustcache.Owner {
	var o trustcache.Owner
	if json.Unmarshal(raw.Reveal(), &o) != nil {
		return trustcache.Owner{}
	}
	return o
}

// identifyOwners adds what the tracker knows of the senders, without asking the
// homeserver: what becomes known later is added when an event is judged, and so is
// whether their devices are confirmed. Dehydrated ones send nothing (requirement 24.2).
func (b *batch) identifyOwners(ctx context.Context) (map[id.UserID]*trustcache.User, error) {
	var users []id.UserID
	for _, k := range b.keys {
		users = append(users, k.owner.UserID)
	}
	slices.Sort(users)
	known, err := b.d.acct.tracker.Cached(ctx, slices.Compact(users))
	if err != nil {
		return nil, fmt.Errorf("look up the senders of room keys: %w", err)
	}
	mode := b.d.eng.opts.Policy().Receive
	for i := range b.keys {
		k := &b.keys[i]
		user := known[k.owner.UserID]
		k.owner, _ = k.owner.Upgrade(user)
		k.refused = trustcache.ToDevice("m.room_key", k.owner, user, mode) != trustcache.ToDeviceProcess
		if !user.Known() {
			b.unknown = append(b.unknown, k.owner.UserID)
		}
	}
	return known, nil
}
