package e2ee

import (
	"strings"

	"maunium.net/go/mautrix/crypto/utils"

	"e2ee-proxy/internal/secret"
)

// WellFormedRecoveryKey reports whether a text is a recovery key: base58 with the two bytes
// and the parity of the specification (Client-Server API, Key representation), spaces
// anywhere. Whether it is the account's key only the homeserver can tell.
func WellFormedRecoveryKey(key secret.String) bool {
	return utils.DecodeBase58RecoveryKey(strings.Join(strings.Fields(key.Reveal()), "")) != nil
}
