package trustcache

import (
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"
)

// Mode is how strictly one direction of the policy (sending, receiving) is applied. The
// zero value enforces.
type Mode int

const (
	// ModeEnforce does what MSC4153 says.
	ModeEnforce Mode = iota
	// ModeWarn does nothing new and reports what enforcing would have done.
	ModeWarn
	// ModeOff does nothing new.
	ModeOff
)

// InClear is the treatment of a plain event in an encrypted room that should have been
// encrypted.
type InClear int

const (
	// InClearMark delivers it with a red mark.
	InClearMark InClear = iota
	// InClearWithhold holds it back.
	InClearWithhold
)

// Unproven is the treatment of an event whose room key came without proof of its sender:
// from a backup, an import, a bundle or a forward (requirement 0.11).
type Unproven int

const (
	// UnprovenShow delivers it with a grey mark that names the source.
	UnprovenShow Unproven = iota
	// UnprovenWithhold holds it back.
	UnprovenWithhold
)

// NativeChanges is the treatment of what devices with keys of their own encrypt for somebody
// whose identity changed.
type NativeChanges int

const (
	// NativeChangesWarn sends it: such a client shows the change itself.
	NativeChangesWarn NativeChanges = iota
	// NativeChangesBlock refuses it until the change is acknowledged.
	NativeChangesBlock
)

// Withheld is what a client sees of a withheld event.
type Withheld int

const (
	// WithheldPlaceholder is a message that says that something was withheld.
	WithheldPlaceholder Withheld = iota
	// WithheldHide is nothing at all.
	WithheldHide
)

// Policy holds the settings about trust, with dates already resolved to the mode in force
// now. The zero value is the default.
type Policy struct {
	Send    Mode
	Receive Mode
	// Native is about devices with keys of their own.
	Native        Mode
	NativeChanges NativeChanges
	InClear       InClear
	Unproven      Unproven
	Withheld      Withheld
	// Bridges are the users whose devices may carry other users' messages (requirement 1.20).
	Bridges map[id.UserID]bool
}

// ReceiveRules returns a name for those settings that decide whether a decrypted event is
// withheld. Equal settings have equal names.
func (p Policy) ReceiveRules() string {
	bridges := slices.Sorted(maps.Keys(p.Bridges))
	return fmt.Sprintf("receive %d, unproven %d, bridges %q", p.Receive, p.Unproven, bridges)
}
