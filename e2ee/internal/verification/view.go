package verification

import (
	"time"

	"maunium.net/go/mautrix/id"
)

// State is how far a verification is, for people.
type State string

const (
	// Requested waits for the other side, or if Incoming for the person here, to accept.
	Requested State = "requested"
	// Ready is accepted by both sides: one of them chooses emoji or a QR code now.
	Ready State = "ready"
	// Started waits for the other side's next message; it needs no person here.
	Started State = "started"
	// Compare has emoji and numbers, which the person here must compare.
	Compare State = "compare"
	// Confirmed is confirmed here, and waits for the other side.
	Confirmed State = "confirmed"
	// Scanned means that the other side scanned the code that is shown here, which the person
	// here must confirm.
	Scanned State = "scanned"
	// Done has verified.
	Done State = "done"
	// Cancelled has not. CancelCode and Message say why.
	Cancelled State = "cancelled"
)

// Over reports whether nothing more happens.
func (s State) Over() bool { return s == Done || s == Cancelled }

// Verification is one verification as a person here sees it.
type Verification struct {
	ID     string    `json:"id"`
	UserID id.UserID `json:"user_id"` // the other side's
	// DeviceID is the other side's device, when it is known.
	DeviceID id.DeviceID `json:"device_id,omitempty"`
	// Own reports whether it is about another device of the own user.
	Own bool `json:"own"`
	// RoomID is the room in which the messages are; empty when they go to devices.
	RoomID   id.RoomID `json:"room_id,omitempty"`
	Incoming bool      `json:"incoming"` // the other side asked
	State    State     `json:"state"`
	// Emoji and Decimals are there while State is [Compare]; both are of the same secret, and
	// one of them is enough.
	Emoji    []Emoji `json:"emoji,omitempty"`
	Decimals *[3]int `json:"decimals,omitempty"`
	// QR is what the code to show contains, when the other side can scan.
	QR []byte `json:"qr,omitempty"`
	// CanScan reports whether the other side can show a code to be scanned here.
	CanScan bool `json:"can_scan"`
	// CanEmoji reports whether emoji can be compared.
	CanEmoji bool `json:"can_emoji"`
	// CancelCode is that of the Client-Server API (m.user, m.timeout, ...).
	CancelCode string `json:"cancel_code,omitempty"`
	// Message says what happened and what to do, for people.
	Message string `json:"message"`
	// ExpiresAt is when it is cancelled if nothing happens.
	ExpiresAt time.Time `json:"expires_at"`
}

// Emoji is one of the seven to compare.
type Emoji struct {
	Symbol string `json:"symbol"`
	Name   string `json:"name"` // in English
	// Names are those in other languages, by language (de, pt_BR).
	Names map[string]string `json:"names,omitempty"`
}

// Partner says with whom of a user's devices one verifies. The zero value is all of them, or
// the room for the two of them.
type Partner struct {
	DeviceID id.DeviceID
}
