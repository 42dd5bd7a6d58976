package engineerr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// The one place where errors of the engine become Matrix errors. The texts are for people
// who may know nothing of encryption: what happened, then what to do.

// Hints where the homeserver does not accept or show the signature of a device.
const (
	HintSignatureNotShown = "The homeserver accepted the confirmation and does not show it, as Synapse does for a device ID that was logged out and used again. " +
		"Log out and log in again with another device ID; or make a new identity: POST /_e2ee_proxy/v1/reset."
	HintAnotherDevice = "Log out and log in again with another device ID. If that does not help, talk to the administrator of the homeserver."
)

// For turns an error of the engine into one for the client. Unknown errors stay as
// they are and are rendered as internal errors.
func For(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*apierr.Error](err); ok {
		return err
	}
	if changed, ok := errors.AsType[*e2ee.IdentityChangedError](err); ok {
		return identityChanged(changed).Because(err)
	}
	if ruled, ok := errors.AsType[*e2ee.RuledError](err); ok {
		return deniedByRule(ruled).Because(err)
	}
	if errors.Is(err, e2ee.ErrKeysRefused) {
		return RefuseEncrypted("The homeserver refuses the encryption keys of this device, so the message was not sent.", HintAnotherDevice).Because(err)
	}
	if up, ok := errors.AsType[*e2ee.UpstreamError](err); ok {
		return ForAnswer(up, err)
	}
	switch {
	case errors.Is(err, e2ee.ErrSignatureNotShown):
		return apierr.DeviceNotSigned(HintSignatureNotShown).Because(err)
	case errors.Is(err, e2ee.ErrSignatureRefused):
		return apierr.DeviceNotSigned(HintAnotherDevice).Because(err)
	case errors.Is(err, e2ee.ErrNotJoined): // as a homeserver answers
		return apierr.Forbidden("This account is not in the room, so the message was not sent.").
			WithHint("Join the room first; an invitation alone is not enough.").Because(err)
	case errors.Is(err, e2ee.ErrUnsupportedAlgorithm):
		return apierr.CannotEncrypt(true, err)
	case errors.Is(err, e2ee.ErrNotYetEncrypted):
		return notYetEncrypted().Because(err)
	case errors.Is(err, e2ee.ErrKeysLost):
		return KeysLost().Because(err)
	case errors.Is(err, e2ee.ErrCannotEncrypt), errors.Is(err, e2ee.ErrClosed):
		return apierr.CannotEncrypt(false, err)
	case errors.Is(err, e2ee.ErrLeaseLost):
		return ProcessEnding(err)
	case errors.Is(err, e2ee.ErrReload):
		return notStored().Because(err)
	case errors.Is(err, e2ee.ErrDeviceNotSigned):
		return apierr.DeviceNotSigned("Confirm it with the recovery key: POST /_e2ee_proxy/v1/recover, " +
			"and see GET /_e2ee_proxy/v1/status. Then send the message again.").Because(err)
	case errors.Is(err, e2ee.ErrKeysReplaced):
		return RefuseEncrypted("The homeserver shows other encryption keys for this device than the proxy's own, so the message was not sent.",
			"Log out and log in again as a new device. If nobody else uses this device's access token, the homeserver should be looked at.").Because(err)
	case errors.Is(err, e2ee.ErrNotProxied):
		return RefuseEncrypted("The proxy holds no encryption keys for this device, so the message was not sent.",
			"See GET /_e2ee_proxy/v1/status.").Because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return apierr.TimedOut(err)
	}
	return err
}

// ProcessEnding is for the moments until a process ends that another one has replaced.
func ProcessEnding(err error) *apierr.Error {
	return &apierr.Error{
		Status: http.StatusServiceUnavailable, ErrCode: apierr.CodeUnknown, Err: err,
		Text: "This process of the proxy is ending, because another one has taken its place. Nothing was changed.", Hint: "Try again in a moment.",
		Header: apierr.RetryAfter(5 * time.Second),
	}
}

// notStored is for a database that does not tell whether it has stored something. The
// request can be repeated.
func notStored() *apierr.Error {
	e := apierr.NewError(http.StatusServiceUnavailable, apierr.CodeUnknown, "The proxy's database does not say whether it has stored a change.").
		WithHint("Try again in a moment.")
	e.Header = apierr.RetryAfter(time.Second)
	return e
}

// ForLookup is like For when it could not be found out whether a room is
// encrypted: nothing is sent.
func ForLookup(err error) error {
	if up, ok := errors.AsType[*e2ee.UpstreamError](err); ok {
		if up.NotMatrix {
			return apierr.NotHomeserver(err)
		}
		switch up.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
			return ForAnswer(up, err)
		}
		return apierr.CannotEncrypt(false, err)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if said, ok := errors.AsType[*apierr.Error](err); ok {
		switch said.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
			return said
		}
		return apierr.CannotEncrypt(false, err)
	}
	if errors.Is(err, e2ee.ErrNotYetEncrypted) {
		return notYetEncrypted().Because(err)
	}
	if mapped, ok := errors.AsType[*apierr.Error](For(err)); ok && mapped.ErrCode == apierr.CodeCannotEncrypt {
		return mapped
	}
	return apierr.CannotEncrypt(false, err)
}

// ForAnswer turns the homeserver's error answer to a request of the engine into one for
// the client.
func ForAnswer(up *e2ee.UpstreamError, err error) error {
	switch {
	case errors.Is(err, e2ee.ErrAnswerTooLarge):
		return apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown, "The homeserver's answer is larger than the proxy takes in: "+up.Op+".").Because(err)
	case up.NotMatrix:
		return apierr.NotHomeserver(err)
	case up.Status == http.StatusUnauthorized && up.ErrCode != apierr.CodeUnknownToken && up.ErrCode != "":
		// M_USER_LOCKED, for one: the session stays (requirement 22.2).
		e := apierr.NewError(http.StatusUnauthorized, up.ErrCode, "The homeserver does not accept this account's access token now.")
		if up.SoftLogout {
			e.Fields = map[string]any{"soft_logout": true}
		}
		return e.Because(err)
	case up.Status == http.StatusUnauthorized:
		return apierr.UnknownToken(up.SoftLogout).Because(err)
	case up.Status == http.StatusForbidden:
		return apierr.Forbidden("The homeserver does not let this account see what is needed to encrypt for this room.").
			WithHint("Is it in the room?").Because(err)
	case up.Status == http.StatusTooManyRequests:
		return apierr.HomeserverLimit(up.RetryAfter).Because(err)
	case up.Status == 0 && errors.Is(err, context.Canceled):
		return err
	case up.Status == 0 && errors.Is(err, context.DeadlineExceeded):
		return apierr.TimedOut(err)
	case up.Status == 0:
		return apierr.Unreachable(err)
	}
	return apierr.HomeserverFailed(up.Status, up.Op, err)
}

// NotSent adds to an error without that sentence that the message was not sent.
func NotSent(err error) error {
	e, ok := errors.AsType[*apierr.Error](err)
	if !ok || strings.Contains(e.Text, "not sent") {
		return err
	}
	c := *e
	c.Text += " The message was not sent."
	return &c
}

// identityChanged lists all users concerned in "users", and those of them who had been
// verified also in "verification_lost": an acknowledgement is not enough for them.
func identityChanged(e *e2ee.IdentityChangedError) *apierr.Error {
	users := slices.Concat(e.Users, e.Lost)
	slices.Sort(users)
	users = slices.Compact(users)
	if len(users) == 0 {
		users = []id.UserID{}
	}
	out := apierr.IdentityChanged(users, "The digital identity of "+userList(users)+
		" was reset, so the message was not sent: it could be read by somebody else.")
	out.Hint = "Ask them in another way whether they did that, then accept it " +
		"(POST /_e2ee_proxy/v1/users/{userId}/acknowledge) and send the message again."
	if len(e.Lost) > 0 {
		out.Hint += " You had verified " + userList(e.Lost) + ": verify again, or give that verification up first " +
			"(POST /_e2ee_proxy/v1/users/{userId}/withdraw_verification)."
		out.Fields["verification_lost"] = e.Lost
	}
	return out
}

// deniedByRule lists the users concerned in "users", some of them if there are many.
func deniedByRule(e *e2ee.RuledError) *apierr.Error {
	out := apierr.NewError(http.StatusForbidden, apierr.CodeDeniedByRule, "By the rules of your organisation "+userList(e.Users)+
		" may not read what is sent to this room, so the message was not sent. The rule says: "+e.Reason).
		WithHint("Write to another room, or ask your administrator. A client whose encryption the proxy does can send here: " +
			"then they cannot read it.")
	out.Fields = map[string]any{"users": e.Users[:min(len(e.Users), 100)]}
	return out
}

// userList returns the first few users for a sentence.
func userList(users []id.UserID) string {
	const most = 5
	shown := make([]string, 0, most)
	for _, u := range users[:min(len(users), most)] {
		shown = append(shown, u.String())
	}
	s := strings.Join(shown, ", ")
	if more := len(users) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// ClearText refuses what a device with keys of its own sends in clear.
func ClearText() *apierr.Error {
	return apierr.NewError(http.StatusForbidden, apierr.CodeClearText,
		"This room is encrypted and this message was not, so it was not sent. "+
			"The device published encryption keys that the proxy does not hold, so the proxy cannot encrypt for it.").
		WithHint("If the client does its own encryption, switch it on for this room. " +
			"Otherwise log in again, so that the client gets a new device that the proxy encrypts for.")
}

// NoCiphertext refuses an event that says it is encrypted, and is not.
func NoCiphertext() *apierr.Error {
	return apierr.NewError(http.StatusForbidden, apierr.CodeClearText,
		"This message says that it is encrypted, and has no ciphertext, so it was not sent.").
		WithHint("Send what the client's encryption made, or the clear event with its own type.")
}

// notYetEncrypted refuses clear text for a room that replaces an encrypted one.
func notYetEncrypted() *apierr.Error {
	return apierr.NewError(http.StatusForbidden, apierr.CodeClearText,
		"This room replaces an encrypted room and is not encrypted itself, so the message was not sent.").
		WithHint("Switch encryption on in this room (PUT /_matrix/client/v3/rooms/{roomId}/state/m.room.encryption), " +
			"or ask somebody who may.")
}

// KeysLost refuses a device whose keys the proxy had and has lost.
func KeysLost() *apierr.Error {
	return apierr.NewError(http.StatusForbidden, apierr.CodeKeysLost,
		"The encryption keys of this device were destroyed when its session ended, so that nobody can encrypt for it any more; nothing was sent.").
		WithHint("Log in again as a new device, with another device ID or none.")
}

// RefuseEncrypted returns a 403 CANNOT_ENCRYPT with a reason of its own.
func RefuseEncrypted(text, hint string) *apierr.Error {
	return apierr.NewError(http.StatusForbidden, apierr.CodeCannotEncrypt, text).WithHint(hint)
}
