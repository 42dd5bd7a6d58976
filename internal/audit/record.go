package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"time"
)

// Kind says what a record is about.
type Kind string

// Decisions about keys and secrets.
const (
	KindRoomKey      Kind = "room_key"           // m.room_key, or a withheld code instead
	KindForwardedKey Kind = "forwarded_room_key" // a room key that another device asked for
	KindHistory      Kind = "room_key_bundle"    // the keys of a room's history, to who is invited
	KindSecret       Kind = "secret"             // a secret that another device asked for
	KindNativeClaim  Kind = "native_claim"       // one-time keys, to a client with keys of its own
	KindNativeSend   Kind = "native_send"        // a to-device message of such a client
)

// Administration.
const (
	KindOverride      Kind = "override"
	KindAcknowledged  Kind = "identity_acknowledged"
	KindWithdrawn     Kind = "verification_withdrawn"
	KindVerified      Kind = "verified"
	KindBootstrap     Kind = "identity_created"
	KindReset         Kind = "identity_reset"
	KindRecovery      Kind = "identity_recovered"
	KindRecoveryKey   Kind = "recovery_key_read"
	KindExport        Kind = "room_keys_exported"
	KindImport        Kind = "room_keys_imported"
	KindPolicy        Kind = "policy_changed"
	KindStart         Kind = "started"
	KindStop          Kind = "stopped"
	KindTruncated     Kind = "log_truncated"
	KindDeviceRemoved Kind = "device_forgotten"
	KindDiscarded     Kind = "sending_keys_discarded"
	KindOverview      Kind = "administrator_looked"
	KindSessionsEnded Kind = "sessions_ended"
)

// Outcome says what became of one recipient. The zero value is no decision, and is refused
// when a record is read.
type Outcome string

// The outcomes.
const (
	Given    Outcome = "given"
	Withheld Outcome = "withheld" // nothing was given, and the device was told why
	Refused  Outcome = "refused"  // nothing was given, and the device was told nothing
	Changed  Outcome = "changed"  // what holds for the device was changed by a person
)

// Record is one entry of the log: a decision with all devices that it was about, or
// something that an administrator did.
type Record struct {
	At   time.Time
	Kind Kind
	// Account, Device and its key are who gave, or withheld, or did something.
	Account string
	Device  string
	Ed25519 string
	Room    string
	// Session is [HashSession] of the Megolm session.
	Session string
	// Index is the first message index that can be read with what was given.
	Index uint32
	// Secret is the name of a secret; Note is what else there is to say.
	Secret string
	Note   string
	// Policy is the version of the policy in force: a hash of its settings.
	Policy string
	Users  []User
}

// User is an owner of recipients, as the decision saw them.
type User struct {
	ID  string
	Pin string // state of the account's pin
	// Master and SelfSigning are the public keys (their fingerprints) of the chain by which
	// the devices are judged.
	Master      string
	SelfSigning string
	Devices     []Recipient
}

// Recipient is a device that a decision was about.
type Recipient struct {
	Device     string
	Ed25519    string
	Curve25519 string
	Outcome    Outcome
	Code       string // of m.room_key.withheld
	Rule       string // why
}

// Recipients returns how many devices the record is about.
func (r *Record) Recipients() int {
	n := 0
	for i := range r.Users {
		n += len(r.Users[i].Devices)
	}
	return n
}

// HashSession returns how the log names a Megolm session: whoever has an event finds by its
// session_id who was given the key.
func HashSession(session string) string {
	sum := sha256.Sum256([]byte(session))
	return base64.RawStdEncoding.EncodeToString(sum[:])
}

// Version returns the version of a policy from a text with all of its settings.
func Version(settings string) string {
	sum := sha256.Sum256([]byte(settings))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}
