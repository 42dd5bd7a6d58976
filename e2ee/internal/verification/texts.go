package verification

import "fmt"

// View returns the flow as a person sees it.
func (f *Flow) View() Verification {
	v := Verification{
		ID: f.ID, UserID: f.user, DeviceID: f.device, Own: f.own, RoomID: f.room, Incoming: f.incoming, State: f.state,
		CancelCode: f.code, Message: f.tell(), ExpiresAt: f.Expires().UTC(),
	}
	switch f.state {
	case Ready:
		v.QR = f.qr.shown
		v.CanScan = f.can(methodShow) && f.can(methodReciprocate)
		v.CanEmoji = f.can(methodSAS)
	case Compare:
		numbers := decimals(f.sas.bytes)
		v.Decimals = &numbers
		for _, n := range emojiNumbers(f.sas.bytes) {
			v.Emoji = append(v.Emoji, emojiOf(n))
		}
	case Requested, Started, Confirmed, Scanned, Done, Cancelled:
	}
	return v
}

// who names the other side in the middle of a sentence.
func (f *Flow) who() string {
	if !f.own {
		return f.user.String()
	}
	if f.device == "" {
		return "your other device"
	}
	return "your device " + f.device.String()
}

// tell says what happened and what to do, in the words of other clients (requirement 26.2).
func (f *Flow) tell() string {
	who := f.who()
	switch f.state {
	case Requested:
		switch {
		case f.incoming && len(f.theirs) > 0 && !f.can(methodSAS) && !f.can(methodReciprocate):
			return fmt.Sprintf("Verification requested by %s, in a way that is not known here. Cancel it, and ask them to update their app.", who)
		case f.incoming:
			return fmt.Sprintf("Verification requested by %s. Accept it if you expect it, and compare the emoji with them in person or over a call that you trust.", who)
		case f.own:
			return "Waiting for " + who + ". Open it, and accept the verification there."
		}
		return "Waiting for " + who + " to accept."
	case Ready:
		return fmt.Sprintf("%s is ready. Compare emoji, or scan a QR code.", capital(who))
	case Started:
		return "Waiting for " + who + "."
	case Compare:
		return fmt.Sprintf("Compare the emoji, or the numbers, with those that %s shows. Say that they match only if all are the same, in the same order.", who)
	case Confirmed:
		return "Waiting for " + who + " to confirm."
	case Scanned:
		return fmt.Sprintf("%s scanned the code. Confirm if it says there that it was scanned.", capital(who))
	case Done:
		if f.own && !f.trusted {
			return "Your other device verified this one. What it needs follows in a moment."
		}
		return fmt.Sprintf("%s is verified.", capital(who))
	case Cancelled:
		return f.tellCancelled()
	default:
		return ""
	}
}

func (f *Flow) tellCancelled() string {
	who := f.who()
	switch f.code {
	case codeUser:
		if f.byThem {
			return fmt.Sprintf("%s cancelled the verification. Ask them, and start again if you both want to.", capital(who))
		}
		return "You cancelled the verification. Nothing was changed."
	case codeTimeout:
		return "The verification took too long. Nothing was changed. Start again when both of you have time."
	case codeAccepted:
		return "The verification was answered on another device."
	case codeSAS:
		return "The emoji do not match. Nothing was verified. Somebody may be reading along, or one of you looked at another verification: " +
			"start again, and if they differ again, do not trust this connection."
	case codeKeyMismatch, codeCommitment:
		return "The other side did not show what was expected. Nothing was verified. Somebody may be reading along, or a digital identity was reset meanwhile: " +
			"start again, and if it fails again, do not trust this connection."
	case codeUnknown:
		return "The other app cannot verify in a way that is known here. Nothing was changed. Ask them to update it."
	case codeNotSaved:
		return "The homeserver did not save the verification. Nothing is verified. Start again in a moment."
	case codeRestarted:
		return "The verification was interrupted because the proxy was restarted. Nothing was changed. Start again."
	case codeUnknownTxn:
		return "The other side does not know this verification any more. Nothing was changed. Start again."
	default:
		return "The verification failed because a message was not as expected. Nothing was changed. Start again."
	}
}

// capital begins a sentence: a user ID stays as it is.
func capital(s string) string {
	if s != "" && s[0] == 'y' {
		return "Y" + s[1:]
	}
	return s
}
