package trustcache

import (
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"
)

// Mode is how a direction of the policy is applied. The zero value enforces.
type Mode int

const (
	// ModeEnforce does what MSC4153 says.
	ModeEnforce Mode = iota
	// ModeWarn does as before and says what enforcing would have done.
	ModeWarn
	// ModeOff does as before.
	ModeOff
)

// InClear says what becomes of a plain event in an encrypted room that should have
// been encrypted.
type InClear int

const (
	// InClearMark delivers it with a red mark.
	InClearMark InClear = iota
	// InClearWithhold holds it back.
	InClearWithhold
)

// Unproven says what becomes of an event whose room key came without proof of its
// sender: from a backup, an import, a bundle or a forward (0.11).
type Unproven int

const (
	// UnprovenShow delivers it with a grey mark that names the source.
	UnprovenShow Unproven = iota
	// UnprovenWithhold holds it back.
	UnprovenWithhold
)

// Withheld says what a client sees of an event that is held back.
type Withheld int

const (
	// WithheldPlaceholder is a message that says that something was held back.
	WithheldPlaceholder Withheld = iota
	// WithheldHide is nothing at all.
	WithheldHide
)

// Policy is what the configuration says of trust, with dates already resolved to the
// mode in force now. The zero value is the default of design §5.
type Policy struct {
	Send     Mode
	Receive  Mode
	InClear  InClear
	Unproven Unproven
	Withheld Withheld
	// Bridges are the users whose devices may carry other users' messages (requirement 1.20).
	Bridges map[id.UserID]bool
}

// ReceiveRules names what of the policy decides whether an event that was decrypted is held
// back. Equal policies have equal names.
func (p Policy) ReceiveRules() string {
	bridges := slices.Sorted(maps.Keys(p.Bridges))
	return fmt.Sprintf("receive %d, unproven %d, bridges %q", p.Receive, p.Unproven, bridges)
}
