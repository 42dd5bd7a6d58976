package e2ee

import "maunium.net/go/mautrix/id"

// What a device keeps among its account's secrets is named after the device's signing
// key: no other device ever has it, whatever the IDs of devices are.
const (
	// secretRestore notes that a restore of the whole history was asked for.
	secretRestore = "restore:"
	// secretRequests are the requests that wait for an answer of the device. They are stored
	// with the position of the sync that brought them, so that a restart loses none (design
	// §7 no. 4).
	secretRequests = "requests:"
	// secretWedged are the devices that need a new Olm session, likewise.
	secretWedged = "wedged:"
	// secretAsked is before the name of a secret that the device has asked for. That it did
	// is stored: the answer may come after a restart, and who has answered does not answer
	// again at once.
	secretAsked = "asked:"
	// secretKeysAsked are the room keys that the device has asked for, for the same reason.
	secretKeysAsked = "keys asked:"
)

func ofDevice(kind string, device id.Ed25519) string { return kind + device.String() }

func askedName(device id.Ed25519, secret string) string {
	return ofDevice(secretAsked, device) + ":" + secret
}

// deviceSecrets names all of them.
func deviceSecrets(device id.Ed25519) []string {
	out := []string{ofDevice(secretRestore, device), ofDevice(secretRequests, device), ofDevice(secretKeysAsked, device), ofDevice(secretWedged, device)}
	for _, name := range []string{secretMaster, secretSelfSigning, secretUserSigning, secretBackup} {
		out = append(out, askedName(device, name))
	}
	return out
}
