package orgrules

import (
	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// maxMemo bounds the decisions that are remembered.
const maxMemo = 1 << 16

// memo remembers decisions that are dear to make. The rules of one version do not change, and what is known of a room
// is another value when it does; with members among it nothing is remembered.
type memo struct {
	set   *rules.Set
	known *lru.Cache[memoKey, rules.Answer]
}

type memoKey struct {
	direction     rules.Direction
	device        rules.Device
	account, user id.UserID
	inRoom, any   bool
	room          id.RoomID
	state         *rules.RoomState
}

// decider returns what decides by a set.
func decider(set *rules.Set) (Decide, error) {
	if !set.Dear() {
		return set.Decide, nil
	}
	known, err := lru.New[memoKey, rules.Answer](maxMemo)
	if err != nil {
		return nil, err
	}
	m := &memo{set, known}
	return m.decide, nil
}

func (m *memo) decide(q *rules.Question) rules.Answer {
	key := memoKey{direction: q.Direction, device: q.Device, account: q.Account, user: q.User, any: q.AnyRoom}
	if q.Room != nil {
		if q.Room.MembersKnown {
			return m.set.Decide(q)
		}
		key.inRoom, key.room, key.state = true, q.Room.ID, q.Room.State
	}
	if a, found := m.known.Get(key); found {
		return a
	}
	a := m.set.Decide(q)
	m.known.Add(key, a)
	return a
}
