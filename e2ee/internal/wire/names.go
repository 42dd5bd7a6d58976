package wire

import "strings"

// Algorithms of encryption, and of the keys that are claimed for it.
const (
	AlgorithmOlm    = "m.olm.v1.curve25519-aes-sha2"
	AlgorithmMegolm = "m.megolm.v1.aes-sha2"
	// AlgorithmSigned is the one-time key algorithm (requirement 3.1).
	AlgorithmSigned = "signed_curve25519"
)

// The state events that matter to encryption.
const (
	TypeEncryption = "m.room.encryption"
	TypeVisibility = "m.room.history_visibility"
	TypeMember     = "m.room.member"
	TypeCreate     = "m.room.create"
)

// TypeMoved is the type of what the proxy writes, with nothing in it, so that the homeserver's
// tokens move: to a device from itself, and as account data. No client of the proxy's is shown
// one, whoever wrote it.
const TypeMoved = "dev.e2ee-proxy.moved"

// MaxIDLength bounds identifiers from the network, in bytes (spec appendices, common
// identifier format). The store refuses longer ones, and all changes that are stored with
// them.
const MaxIDLength = 255

// MaxIterations bounds the PBKDF2 rounds that a hostile key description can ask for: about
// a second. Clients use 500,000.
const MaxIterations = 2_000_000

// Truncate cuts a text from the network to at most n bytes of valid UTF-8.
func Truncate(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}
