package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Bootstrap is who creates a missing identity.
type Bootstrap int

// The ways to bootstrap.
const (
	BootstrapAutomatic Bootstrap = iota
	BootstrapManual
)

// LogLevel is the least important kind of line that is logged.
type LogLevel int

// The log levels.
const (
	LogInfo LogLevel = iota
	LogDebug
	LogWarn
	LogError
)

// LogFormat is the form of log lines.
type LogFormat int

// The log formats.
const (
	LogAuto LogFormat = iota
	LogJSON
	LogText
)

// ForwardedHeader is the header in which trusted proxies say who the client is.
type ForwardedHeader int

// The headers that say who the client is.
const (
	ForwardedHeaderX ForwardedHeader = iota
	ForwardedHeaderStandard
)

// Requirement is true or false with "required" as its zero value.
type Requirement int

// The requirements. The zero value refuses what is not signed.
const (
	Required Requirement = iota
	NotRequired
)

// Required reports whether the requirement holds.
func (r Requirement) Required() bool { return r != NotRequired }

// Switch is on or off.
type Switch int

// The positions of a switch.
const (
	SwitchOn Switch = iota
	SwitchOff
)

// Acknowledge is who acknowledges changes of never-verified identities.
type Acknowledge int

// The ways to acknowledge. The zero value leaves it to the owner.
const (
	AcknowledgeNever Acknowledge = iota
	AcknowledgeAutomatic
)

// SecretRequests is the treatment of requests for secrets by the user's other devices.
type SecretRequests int

// The treatments of requests for secrets. Even the zero value sends them to confirmed
// devices only.
const (
	SecretRequestsAnswer SecretRequests = iota
	SecretRequestsIgnore
)

// AutoVerify is whose verifications are accepted and confirmed unseen.
type AutoVerify int

// Those whose verifications may be.
const (
	AutoVerifyOwn AutoVerify = iota
)

// Mode is how strictly a rule is applied. The zero value enforces.
type Mode int

// The modes.
const (
	Enforce Mode = iota
	Warn
	Off
)

// PlainInEncrypted is the treatment of clear events in encrypted rooms.
type PlainInEncrypted int

// The treatments of clear events in encrypted rooms.
const (
	PlainMark PlainInEncrypted = iota
	PlainWithhold
)

// NativeClearText is the treatment of clear text into encrypted rooms from devices that
// have keys of their own. The zero value refuses it.
type NativeClearText int

// The treatments of clear text from devices that have keys of their own.
const (
	NativeRefuse NativeClearText = iota
	NativePass
)

// NativeIdentityChanges is the treatment of encrypted sends from devices that have keys of
// their own when somebody's digital identity was reset.
type NativeIdentityChanges int

// The treatments of encrypted sends after a reset.
const (
	NativeChangesWarn NativeIdentityChanges = iota
	NativeChangesBlock
)

// OnError is what happens when the decision point does not answer.
type OnError int

// What happens when the decision point does not answer.
const (
	OnErrorDeny OnError = iota
	OnErrorAllow
)

// Unproven is the treatment of events whose key came without proof of its sender.
type Unproven int

// The treatments of events whose key came without proof of its sender.
const (
	UnprovenShow Unproven = iota
	UnprovenWithhold
)

// Withheld is what a client sees of a withheld message.
type Withheld int

// What a client sees of a withheld message.
const (
	WithheldPlaceholder Withheld = iota
	WithheldHide
)

// Undecryptable is what a client sees of an event that cannot be decrypted yet.
type Undecryptable int

// What a client sees of an event that cannot be decrypted yet.
const (
	UndecryptableHold Undecryptable = iota
	UndecryptablePlaceholder
	UndecryptableEvent
)

// URLPreviews is what becomes of clients' requests for previews of web pages. The zero value
// tells the homeserver nothing.
type URLPreviews int

// What becomes of requests for previews.
const (
	URLPreviewsEmpty URLPreviews = iota
	URLPreviewsPass
)

// The words of each enumeration, in the order of its constants.
func (Bootstrap) words() []string             { return []string{"automatic", "manual"} }
func (ForwardedHeader) words() []string       { return []string{"x-forwarded-for", "forwarded"} }
func (LogLevel) words() []string              { return []string{"info", "debug", "warn", "error"} }
func (LogFormat) words() []string             { return []string{"auto", "json", "text"} }
func (Requirement) words() []string           { return []string{"true", "false"} }
func (Switch) words() []string                { return []string{"on", "off"} }
func (Acknowledge) words() []string           { return []string{"never", "automatic"} }
func (SecretRequests) words() []string        { return []string{"answer", "ignore"} }
func (AutoVerify) words() []string            { return []string{"own"} }
func (Mode) words() []string                  { return []string{"enforce", "warn", "off"} }
func (PlainInEncrypted) words() []string      { return []string{"mark", "withhold"} }
func (NativeClearText) words() []string       { return []string{"refuse", "pass"} }
func (NativeIdentityChanges) words() []string { return []string{"warn", "block"} }
func (OnError) words() []string               { return []string{"deny", "allow"} }
func (Unproven) words() []string              { return []string{"show", "withhold"} }
func (Withheld) words() []string              { return []string{"placeholder", "hide"} }
func (Undecryptable) words() []string         { return []string{"hold", "placeholder", "event"} }
func (URLPreviews) words() []string           { return []string{"empty", "pass"} }

// String returns the word used in the configuration.
func (e Bootstrap) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e LogLevel) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e LogFormat) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e ForwardedHeader) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (r Requirement) String() string { return word(r, int(r)) }

// String returns the word used in the configuration.
func (e Switch) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e Acknowledge) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e SecretRequests) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e AutoVerify) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e Mode) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e PlainInEncrypted) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e NativeClearText) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e NativeIdentityChanges) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e OnError) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e Unproven) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e Withheld) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e Undecryptable) String() string { return word(e, int(e)) }

// String returns the word used in the configuration.
func (e URLPreviews) String() string { return word(e, int(e)) }

// UnmarshalText accepts the words of the enumeration only.
func (e *URLPreviews) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *ForwardedHeader) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *Bootstrap) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *LogLevel) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *LogFormat) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts true and false only.
func (r *Requirement) UnmarshalText(b []byte) error { return parseWord(r, b) }

// UnmarshalText accepts on and off only.
func (e *Switch) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *Acknowledge) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *SecretRequests) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *AutoVerify) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *Mode) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *PlainInEncrypted) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *NativeClearText) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *NativeIdentityChanges) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *OnError) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *Unproven) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *Withheld) UnmarshalText(b []byte) error { return parseWord(e, b) }

// UnmarshalText accepts the words of the enumeration only.
func (e *Undecryptable) UnmarshalText(b []byte) error { return parseWord(e, b) }

// wordEnum is an enumeration with a word for each constant.
type wordEnum interface{ words() []string }

// wordsOf returns the words of an enumeration, or of one that may be left out; nil for
// everything else.
func wordsOf(t reflect.Type) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if e, ok := reflect.Zero(t).Interface().(wordEnum); ok {
		return e.words()
	}
	return nil
}

func word(e wordEnum, i int) string {
	w := e.words()
	if i < 0 || i >= len(w) {
		return fmt.Sprintf("invalid(%d)", i)
	}
	return w[i]
}

// parseWord sets e to the constant with the word b.
func parseWord[E interface {
	~int
	wordEnum
}](e *E, b []byte) error {
	words := (*e).words()
	i := slices.Index(words, string(b))
	if i < 0 {
		return &valueError{
			what: fmt.Sprintf("%q is not a possible value", b),
			do:   "choose one of: " + strings.Join(words, ", "),
		}
	}
	*e = E(i)
	return nil
}
