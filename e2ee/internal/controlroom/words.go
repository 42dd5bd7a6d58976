package controlroom

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/notices"
)

// textWelcome is the first message of a room.
const textWelcome = "Hello! Your messages in encrypted rooms are encrypted and decrypted by a proxy between this client and your homeserver. " +
	"In this room it tells you when something needs your attention, and you can tell it what to do. Only you can see it. " +
	"Write help to see what you can write, or status to see how things stand. You may leave this room: it comes back when there is something that you must know."

// textSecretGone stands where something was told once.
const textSecretGone = "(Your recovery key was here. It is not shown again.)"

// Text returns the content of a message of the proxy: a notice, which programs do not answer.
func Text(body string) json.RawMessage { return object("msgtype", "m.notice", "body", body) }

// notice is a warning that is said in the room.
type notice struct {
	id, code string
	user     id.UserID
	message  string
}

// text returns the warning with what can be written against it.
func (n *notice) text() string {
	switch n.code {
	case notices.CodeIdentityChanged:
		return n.message + " To accept the new one, write: acknowledge " + n.user.String()
	case notices.CodeVerificationLost:
		return n.message + " To verify again, write: verify " + n.user.String() + " To give the verification up, write: withdraw " + n.user.String()
	case notices.CodeOwnIdentityChanged, notices.CodeDeviceNotSigned, notices.CodeBackupBroken:
		return n.message + " To enter your recovery key, write: recover"
	case notices.CodeVerificationRequested:
		if n.user == "" {
			return n.message + " To accept it, write: verify me"
		}
		return n.message + " To accept it, write: verify " + n.user.String()
	case notices.CodeStorageMissing:
		return n.message + " To see what to do, write: status"
	}
	return n.message
}
