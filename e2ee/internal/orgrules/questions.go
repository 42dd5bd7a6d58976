package orgrules

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// KeyQuestion asks about a room key for a device.
func KeyQuestion(account id.UserID, u *trustcache.User, d *trustcache.Device, room *rules.Room) rules.Question {
	return rules.Question{Direction: rules.SendKey, Account: account, User: d.UserID, Device: trusted(u, d), Room: room}
}

// AnyKeyQuestion asks about something encrypted for a device, which may be a key of any room. d is
// nil for a device of a user that is not known.
func AnyKeyQuestion(account, user id.UserID, u *trustcache.User, d *trustcache.Device) rules.Question {
	return rules.Question{Direction: rules.SendKey, Account: account, User: user, Device: trusted(u, d), AnyRoom: true}
}

// SecretQuestion asks about a secret for another device of the account's own.
func SecretQuestion(own *trustcache.User, d *trustcache.Device) rules.Question {
	return rules.Question{Direction: rules.Secret, Account: own.UserID, User: own.UserID, Device: trusted(own, d)}
}

// MessageQuestion asks about a decrypted message, as it is judged.
func MessageQuestion(in *trustcache.JudgeInput, room *rules.Room) rules.Question {
	return rules.Question{Direction: rules.ShowMessage, Account: in.Own, User: in.Sender, Device: sentBy(in), Room: room}
}

// ClearQuestion asks about a message that came in clear. Nothing proves who sent it.
func ClearQuestion(account, sender id.UserID, room *rules.Room) rules.Question {
	return rules.Question{Direction: rules.ShowMessage, Account: account, User: sender, Device: rules.DeviceUnproven, Room: room}
}
