package controlroom

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/notices"
)

const (
	// Server is the server name in all of the room's IDs. It is under .invalid, which cannot
	// exist (RFC 6761).
	Server = notices.Server
	// Sender is who speaks for the proxy.
	Sender = id.UserID("@control:" + Server)
	// Name is the name of the room and of Sender.
	Name = notices.SenderName
)

// RoomOf returns the ID of a user's room. Each user's is another, so that one who names
// somebody else's is known to be wrong.
func RoomOf(user id.UserID) id.RoomID {
	return id.RoomID("!" + short("room", user.String()) + ":" + Server)
}

// IsRoom reports whether a text is the ID of a room of this kind, somebody's.
func IsRoom(name string) bool {
	return strings.HasPrefix(name, "!") && strings.HasSuffix(name, ":"+Server)
}

// IDOf returns the ID of the event that a device sends with a transaction ID: again the same.
func IDOf(user id.UserID, dev id.DeviceID, txn string) id.EventID {
	return id.EventID("$" + short("sent", user.String(), dev.String(), txn) + ":" + Server)
}

// lineID returns the ID of a message of the proxy.
func lineID(user id.UserID, opened int, seq int64) id.EventID {
	return id.EventID("$" + short("said", user.String(), strconv.Itoa(opened), strconv.FormatInt(seq, 10)) + ":" + Server)
}

// stateID returns the ID of a state event.
func stateID(user id.UserID, opened int, what string) id.EventID {
	return id.EventID("$" + short("state", user.String(), strconv.Itoa(opened), what) + ":" + Server)
}

func short(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}
