package interceptors

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"
)

// maxTransactions is how many transactions are remembered with their event types;
// homeservers forget theirs after an hour or so.
const maxTransactions = 1 << 15

// transactions keeps transactions apart that encryption would make one. A transaction ID
// holds for one path, and the path names the event type: a client may number its messages
// and its stickers apart. Encrypted, both would be the same transaction, and the homeserver
// would drop the second event as a repetition of the first.
type transactions struct {
	types *lru.Cache[txnKey, string]
}

type txnKey struct {
	user   id.UserID
	device id.DeviceID
	room   id.RoomID
	txn    string
}

func newTransactions() (*transactions, error) {
	types, err := lru.New[txnKey, string](maxTransactions)
	if err != nil {
		return nil, fmt.Errorf("make the cache of transactions: %w", err)
	}
	return &transactions{types: types}, nil
}

// upstream returns the transaction ID under which an event goes to the homeserver: the
// client's own, unless that was used for an event of another type.
func (t *transactions) upstream(who Identity, room id.RoomID, eventType, txn string) string {
	first, used, _ := t.types.PeekOrAdd(txnKey{who.UserID, who.DeviceID, room, txn}, eventType)
	if !used || first == eventType {
		return txn
	}
	return txn + "~" + eventType
}
