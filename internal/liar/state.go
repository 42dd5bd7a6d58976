package liar

import (
	"encoding/json"
	"fmt"
)

// state is all that the server keeps. Everything in it is guarded by Server.mu.
type state struct {
	pos    int64 // the position of the last change; sync tokens are positions
	serial int64 // for identifiers
	users  map[string]*user
	tokens map[string]*device
	rooms  map[string]*room
	// txns are the answers of requests with a transaction ID, by device and path.
	txns  map[string]any
	files map[string][]byte // by "server/id"
	// uiaForFirstKeys asks for user-interactive auth even for the first cross-signing
	// keys, as servers without MSC3967 do.
	uiaForFirstKeys bool
	// keepSignatures keeps what others signed of a device under its ID, see KeepOldSignatures.
	keepSignatures bool
	// notCopied is state that an upgrade leaves out.
	notCopied []string
	// refusing is how a clash of one-time keys is answered, see RefuseKeysAs.
	refusing Refusal
}

func newState() state {
	return state{
		pos:   1, // so that the first sync token is not that of the beginning
		users: map[string]*user{}, tokens: map[string]*device{},
		rooms: map[string]*room{}, txns: map[string]any{}, files: map[string][]byte{},
	}
}

type user struct {
	id, localpart, password string
	displayName             string
	devices                 map[string]*device
	accountData             map[dataKey]datum
	filters                 map[string]json.RawMessage
	oldSignatures           map[string]map[string]any // by device ID
	crossSigning            map[string]map[string]any // "master", "self_signing", "user_signing"
	keysPos                 int64                     // of the last change of devices or identity
	backups                 []*backup                 // by version, from 1
}

// dataKey names account data; room is empty for global data.
type dataKey struct{ room, kind string }

type datum struct {
	pos     int64
	content json.RawMessage
}

type device struct {
	user         *user
	id           string
	displayName  string
	token        string
	keys         map[string]any // nil until uploaded
	oneTimeKeys  []oneTimeKey   // in the order of their upload
	fallback     map[string]oneTimeKey
	fallbackUsed map[string]bool
	countsPos    int64 // of the last change of one-time or fallback keys
	toDevice     []toDevice
}

type oneTimeKey struct {
	algorithm, id string // id is "algorithm:…"
	key           any
}

type toDevice struct {
	pos   int64
	event json.RawMessage
}

type room struct {
	id     string
	events []*Event
	state  map[stateKey]*Event
}

type stateKey struct{ kind, key string }

// Event is a room event. What clients get is made from it.
type Event struct {
	ID       string
	Type     string
	Sender   string
	StateKey *string
	Content  json.RawMessage
	Redacts  string
	// Unsigned is sent as it is, with what the server adds.
	Unsigned map[string]any

	time      int64 // milliseconds
	pos       int64
	txn       string
	txnDevice *device
	redactor  *Event
}

func (s *state) newID(prefix string) string {
	s.serial++
	return fmt.Sprintf("%s%06d", prefix, s.serial)
}

// membershipAt returns a user's membership as of a position.
func (r *room) membershipAt(user string, pos int64) string {
	for i := len(r.events) - 1; i >= 0; i-- {
		e := r.events[i]
		if e.pos <= pos && e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == user {
			return e.membership()
		}
	}
	return "leave"
}

func (r *room) membership(user string) string {
	if e := r.state[stateKey{"m.room.member", user}]; e != nil {
		return e.membership()
	}
	return "leave"
}

func (e *Event) membership() string {
	var c struct {
		Membership string `json:"membership"`
	}
	if json.Unmarshal(e.Content, &c) != nil || c.Membership == "" {
		return "leave"
	}
	return c.Membership
}

// shareRoomAt reports whether both users were joined to some room.
func (s *state) shareRoomAt(a, b string, pos int64) bool {
	for _, r := range s.rooms {
		if r.membershipAt(a, pos) == "join" && r.membershipAt(b, pos) == "join" {
			return true
		}
	}
	return false
}

func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		// Only values that this package builds itself come here.
		return json.RawMessage("null")
	}
	return raw
}
