package verification

import (
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// Codes of m.key.verification.cancel (requirement 13.16).
const (
	codeUser        = "m.user"
	codeTimeout     = "m.timeout"
	codeUnknownTxn  = "m.unknown_transaction"
	codeUnknown     = "m.unknown_method"
	codeUnexpected  = "m.unexpected_message"
	codeKeyMismatch = "m.key_mismatch"
	codeInvalid     = "m.invalid_message"
	codeAccepted    = "m.accepted"
	codeCommitment  = "m.mismatched_commitment"
	codeSAS         = "m.mismatched_sas"
	// codeNotSaved is ours: what was verified could not be recorded at the homeserver.
	codeNotSaved = "dev.e2ee-proxy.not_saved"
	// codeRestarted is ours: the process that knew the secrets of the flow has ended.
	codeRestarted = "dev.e2ee-proxy.restarted"

	codeUnknownMethod = codeUnknown
)

// reasonOf returns the reason that goes with a code, for the other side's people.
func reasonOf(code string) string {
	switch code {
	case codeUser:
		return "The user cancelled the verification."
	case codeTimeout:
		return "The verification timed out."
	case codeUnknownTxn:
		return "There is no such verification."
	case codeUnknown:
		return "There is no method that both sides have."
	case codeKeyMismatch:
		return "The keys do not match."
	case codeInvalid:
		return "A message was malformed."
	case codeAccepted:
		return "The verification was accepted on another device."
	case codeCommitment:
		return "The commitment does not match."
	case codeSAS:
		return "The emoji or numbers do not match."
	case codeNotSaved:
		return "The verification could not be saved."
	case codeRestarted:
		return "The verification was interrupted because a server was restarted. Start again."
	default:
		return "A message was not expected."
	}
}

// end returns the flow, over and without its secrets.
func (f Flow) end(now time.Time, code string, byThem bool) Flow {
	f.state, f.code, f.byThem, f.overAt = Cancelled, code, byThem, now
	f.forget()
	return f
}

// cancel ends the flow and tells the other side.
func (f Flow) cancel(now time.Time, code string) (Flow, Effects) {
	to := []id.DeviceID{f.device}
	if f.device == "" {
		to = f.asked
	}
	m := f.message(typeCancel, to, text("code", code), text("reason", reasonOf(code)))
	return f.end(now, code, false), Effects{Send: []Message{m}}
}

// cancelled takes the other side's cancellation. One of several devices that were asked
// speaks for its user (requirement 13.2).
func (f Flow) cancelled(k Known, ev *Event) (Flow, Effects) {
	if f.state.Over() {
		return f, Effects{}
	}
	code := wire.Truncate(ev.content.TextOrEmpty("code"), wire.MaxIDLength)
	if code == "" {
		code = codeInvalid
	}
	var eff Effects
	if !f.incoming && f.state == Requested && f.room == "" && len(f.asked) > 1 {
		eff.Send = []Message{f.message(typeCancel, f.asked, text("code", codeUser), text("reason", reasonOf(codeUser)))}
	}
	return f.end(k.Now, code, true), eff
}

// Cancel ends the flow because the person here wants it.
func (f Flow) Cancel(now time.Time) (Flow, Effects, error) {
	if f.state.Over() {
		return f, Effects{}, stepError(f.state == Cancelled)
	}
	next, eff := f.cancel(now, codeUser)
	return next, eff, nil
}

// Expires returns when the flow ends if nothing happens.
func (f *Flow) Expires() time.Time {
	end := f.sentAt.Add(lifetime)
	if by := f.cameAt.Add(lifetime); by.Before(end) {
		end = by // sent by somebody whose clock is ahead
	}
	if f.incoming && f.state == Requested && !f.looked {
		if by := f.cameAt.Add(attention); by.Before(end) {
			return by
		}
	}
	return end
}

// Expire ends the flow when its time is over. A request that nobody answered is dropped
// without a word: another device may still accept it.
func (f Flow) Expire(now time.Time) (Flow, Effects) {
	if f.state.Over() || now.Before(f.Expires()) {
		return f, Effects{}
	}
	if f.incoming && f.state == Requested {
		return f.end(now, codeTimeout, false), Effects{}
	}
	return f.cancel(now, codeTimeout)
}

// Look records that a person looks at the flow, which keeps a request open for longer.
func (f Flow) Look() Flow {
	f.looked = true
	return f
}

// can reports whether the other side has a method.
func (f *Flow) can(method string) bool { return slices.Contains(f.theirs, method) }

// Over reports whether nothing more happens to the flow, and since when.
func (f *Flow) Over() (since time.Time, over bool) { return f.overAt, f.state.Over() }

// errStep is what a person asks for at the wrong time.
var errStep = core.ErrVerificationStep
