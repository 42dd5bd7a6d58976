package core

// Mode says what the proxy does for a device. The zero value encrypts nothing and
// lets nothing through into an encrypted room.
type Mode int

const (
	// ModeUnknown is a device not yet compared with the homeserver.
	ModeUnknown Mode = iota
	// ModeProxied is a device whose keys the proxy holds.
	ModeProxied
	// ModeForeign is a device with published keys that the proxy never had: its client
	// seems to do its own encryption. Its requests pass through, except clear text into
	// encrypted rooms.
	ModeForeign
	// ModeNone is a token without a device (a guest or an application service). It can have
	// no keys, so it may read, but not send into encrypted rooms.
	ModeNone
	// ModeLost is a device whose published keys were the proxy's and were destroyed. It may
	// read, but not send into encrypted rooms.
	ModeLost
)

// String returns the mode's name in the control API.
func (m Mode) String() string {
	switch m {
	case ModeUnknown:
		return "unknown"
	case ModeProxied:
		return "proxied"
	case ModeForeign:
		return "foreign"
	case ModeNone:
		return "none"
	case ModeLost:
		return "lost"
	default:
		return "invalid"
	}
}
