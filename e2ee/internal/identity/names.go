package identity

import "maunium.net/go/mautrix/id"

// Names of an account's secrets: those of the spec (requirements 12.11, 16.2), and ours.
const (
	SecretMaster      = "m.cross_signing.master"
	SecretSelfSigning = "m.cross_signing.self_signing"
	SecretUserSigning = "m.cross_signing.user_signing"
	SecretBackup      = "m.megolm_backup.v1"
	// SecretStorageKey is the key of secret storage that we made: the recovery key.
	SecretStorageKey = "recovery_key"
)

// What a device keeps among its account's secrets is named after the device's signing
// key: no other device ever has it, whatever the IDs of devices are.
const (
	// SecretRestore notes that a restore of the whole history was asked for.
	SecretRestore = "restore:"
	// SecretRequests are the requests that wait for an answer of the device. They are stored
	// with the position of the sync that brought them, so that a restart loses none (design
	// §7 no. 4).
	SecretRequests = "requests:"
	// SecretWedged are the devices that need a new Olm session, likewise.
	SecretWedged = "wedged:"
	// secretAsked is before the name of a secret that the device has asked for. That it did
	// is stored: the answer may come after a restart, and who has answered does not answer
	// again at once.
	secretAsked = "asked:"
	// SecretKeysAsked are the room keys that the device has asked for, for the same reason.
	SecretKeysAsked = "keys asked:"
)

// OfDevice names a secret of a kind that a device keeps.
func OfDevice(kind string, device id.Ed25519) string { return kind + device.String() }

// AskedName names the note that a device has asked for a secret.
func AskedName(device id.Ed25519, secret string) string {
	return OfDevice(secretAsked, device) + ":" + secret
}

// DeviceSecrets names all of them.
func DeviceSecrets(device id.Ed25519) []string {
	out := []string{OfDevice(SecretRestore, device), OfDevice(SecretRequests, device), OfDevice(SecretKeysAsked, device), OfDevice(SecretWedged, device)}
	for _, name := range []string{SecretMaster, SecretSelfSigning, SecretUserSigning, SecretBackup} {
		out = append(out, AskedName(device, name))
	}
	return out
}
