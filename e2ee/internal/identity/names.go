package identity

import "maunium.net/go/mautrix/id"

// Names of an account's secrets: those of the spec (requirements 12.11, 16.2), and the
// proxy's own.
const (
	SecretMaster      = "m.cross_signing.master"
	SecretSelfSigning = "m.cross_signing.self_signing"
	SecretUserSigning = "m.cross_signing.user_signing"
	SecretBackup      = "m.megolm_backup.v1"
	// SecretBackupReceived is a backup key that another device sent and that was not
	// compared with the backup yet.
	SecretBackupReceived = "received:" + SecretBackup
	// SecretStorageKey is the key of a secret storage that the proxy made: the recovery
	// key.
	SecretStorageKey = "recovery_key"
	// SecretMadeHere is the public master key of an identity that the proxy made, as long as no
	// other client was seen with its keys.
	SecretMadeHere = "identity_made_here"
	// SecretRecoveryRead is stored once the user has deleted the recovery key from the API.
	SecretRecoveryRead = "recovery_key_deleted"
)

// Values that a device keeps among its account's secrets have the device's signing key in
// their name: unlike a device ID it is never used again.
const (
	// SecretRestore says that a restore of the whole history was requested.
	SecretRestore = "restore:"
	// SecretRequests are the requests of other devices that wait for an answer. They are
	// stored with the position of the sync that brought them, so that a restart loses none.
	SecretRequests = "requests:"
	// SecretWedged are the devices that need a new Olm session, likewise.
	SecretWedged = "wedged:"
	// secretAsked is the prefix for the name of a secret that the device has requested.
	// Requests are stored because the answer may come after a restart, and a device that
	// has answered does not answer again at once.
	secretAsked = "asked:"
	// SecretKeysAsked are the room keys that the device has requested, stored for the same
	// reason.
	SecretKeysAsked = "keys asked:"
	// SecretVerifying are the verifications that are under way, so that it can be said that they
	// ended with the process.
	SecretVerifying = "verifying:"
	// SecretHistory are the bundles of room keys and the invitations that wait for each other.
	SecretHistory = "history:"
)

// OfDevice returns the name of a device's value of a kind.
func OfDevice(kind string, device id.Ed25519) string { return kind + device.String() }

// AskedName returns the name under which a device's request for a secret is stored.
func AskedName(device id.Ed25519, secret string) string {
	return OfDevice(secretAsked, device) + ":" + secret
}

// DeviceSecrets returns the names of all values of a device.
func DeviceSecrets(device id.Ed25519) []string {
	var out []string
	for _, kind := range []string{SecretRestore, SecretRequests, SecretKeysAsked, SecretWedged, SecretHistory, SecretVerifying} {
		out = append(out, OfDevice(kind, device))
	}
	for _, name := range []string{SecretMaster, SecretSelfSigning, SecretUserSigning, SecretBackup} {
		out = append(out, AskedName(device, name))
	}
	return out
}
