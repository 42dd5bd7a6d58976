package checkup

import (
	"fmt"
	"slices"
	"strings"

	"e2ee-proxy/e2ee/internal/status"
)

// State is how a link stands. The zero value says nothing of it.
type State string

// The states of a link.
const (
	// Unknown could not be looked at.
	Unknown State = "unknown"
	// OK is in order.
	OK State = "ok"
	// Careful lets messages pass, and something is to be done.
	Careful State = "careful"
	// Broken keeps messages from passing, or from being kept.
	Broken State = "broken"
)

// Link is one link of the chain.
type Link struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Message says what was found, Why why it matters, and Hint what to do; the last two only of
	// what is not in order.
	Message string `json:"message"`
	Why     string `json:"why,omitempty"`
	Hint    string `json:"hint,omitempty"`
	// Code is that of the problem, as in a status.
	Code string `json:"code,omitempty"`
}

// Names of the links, in their order.
const (
	Token       = "token"
	Device      = "device"
	KeyIDs      = "key_ids"
	Identity    = "identity"
	Signature   = "signature"
	Storage     = "secret_storage"
	Backup      = "backup"
	OneTimeKeys = "one_time_keys"
	Sync        = "sync"
	OwnDevices  = "own_devices"
	Talk        = "talk"
)

// whys are why each link matters.
func whys() map[string]string {
	return map[string]string{
		Token:       "The proxy speaks to the homeserver with it, also while no client does.",
		Device:      "The proxy can encrypt and decrypt for a device only if the device's keys are its own.",
		KeyIDs:      "Other clients look keys up by the spelling of the specification, and do not find these.",
		Identity:    "By it others know which devices are yours.",
		Signature:   "Others give no keys to a device that its owner has not confirmed, and do not show what it sends.",
		Storage:     "From it your recovery key brings your identity and your messages back.",
		Backup:      "What is not in it is lost when this device is.",
		OneTimeKeys: "With them others begin to write to this device. Without them what they send first cannot be read.",
		Sync:        "By it keys arrive, whether or not a client asks for messages.",
		OwnDevices:  "A device that you have not confirmed gets no messages, and may be a stranger's.",
		Talk:        "It is what everything else is for.",
	}
}

// Found is what was found of a device. An error says why something could not be looked at, in
// words for a person.
type Found struct {
	Status status.Status
	// TokenTrouble and SyncTrouble are why the homeserver did not answer; empty when it did.
	TokenTrouble, SyncTrouble string
	// OneTimeKeys is how many the homeserver has; CountTrouble why that is not known.
	OneTimeKeys  int
	CountTrouble string
	// OddKeys are published keys of the identity whose IDs are not spelt as the specification
	// says, such as with padding.
	OddKeys []string
	// Talk is what became of a conversation with itself; nil when none was asked for.
	Talk *Talked
}

// Talked is what became of a conversation of a device with itself.
type Talked struct {
	// Step is what failed; empty when everything went well.
	Step, Trouble string
}

// linkOf says which link a problem of a status is of, and whether it keeps messages from
// passing.
func linkOf(code string) (name string, broken bool) {
	switch code {
	case "device_has_own_keys":
		return Device, false
	case "keys_lost", "no_device", "keys_replaced", "keys_refused":
		return Device, true
	case "setting_up":
		return Device, false
	case "no_identity", "own_identity_changed":
		return Identity, true
	case "device_not_signed", "signature_not_shown", "signature_refused":
		return Signature, true
	case "secret_storage_missing", "secret_storage_incomplete":
		return Storage, false
	case "backup_missing", "backup_broken", "backup_unreadable":
		return Backup, false
	case "keys_being_replaced":
		return OneTimeKeys, false
	case "other_devices_not_signed":
		return OwnDevices, false
	}
	return "", false
}

// Walk returns the links in their order.
func Walk(f *Found) []Link {
	w := &walk{f: f, why: whys()}
	w.add(w.token())
	for _, name := range []string{Device, KeyIDs, Identity, Signature, Storage, Backup, OneTimeKeys, Sync, OwnDevices} {
		w.add(w.link(name))
	}
	if f.Talk != nil {
		w.add(w.talk())
	}
	return w.links
}

type walk struct {
	f     *Found
	why   map[string]string
	links []Link
}

func (w *walk) add(l Link) {
	if l.State == Careful || l.State == Broken {
		l.Why = w.why[l.Name]
	}
	w.links = append(w.links, l)
}

func (w *walk) token() Link {
	if trouble := w.f.TokenTrouble; trouble != "" {
		return Link{Name: Token, State: Broken, Message: trouble, Hint: "Log in again through the proxy if it stays so."}
	}
	return Link{Name: Token, State: OK, Message: "The homeserver takes the device's access token."}
}

// link returns a link of which the status tells, or one of the counts.
func (w *walk) link(name string) Link {
	s := &w.f.Status
	for i := range s.Problems {
		p := &s.Problems[i]
		if of, broken := linkOf(p.Code); of == name {
			l := Link{Name: name, State: Careful, Message: p.Message, Hint: p.Hint, Code: p.Code}
			if broken {
				l.State = Broken
			}
			return l
		}
	}
	if name != Device && s.Mode != "proxied" {
		return Link{Name: name, State: Unknown, Message: "The proxy does no encryption for this device."}
	}
	switch name {
	case Device:
		return w.device()
	case KeyIDs:
		return w.keyIDs()
	case OneTimeKeys:
		return w.oneTimeKeys()
	case Sync:
		if w.f.SyncTrouble != "" {
			return Link{Name: name, State: Broken, Message: w.f.SyncTrouble, Hint: "Look into the proxy's log and the homeserver's."}
		}
		return Link{Name: name, State: OK, Message: "What came for the device was fetched."}
	}
	return w.statusLink(name)
}

func (w *walk) device() Link {
	if w.f.Status.Mode != "proxied" {
		return Link{Name: Device, State: Unknown, Message: "It could not be compared with the homeserver yet.", Hint: "Ask again in a moment."}
	}
	return Link{Name: Device, State: OK, Message: "The proxy has the keys of this device, and the homeserver shows them."}
}

func (w *walk) keyIDs() Link {
	if odd := w.f.OddKeys; len(odd) > 0 {
		return Link{Name: KeyIDs, State: Broken, Code: "odd_key_ids",
			Message: "The IDs of these keys of your identity are spelt otherwise than the specification says, such as with padding (=): " + strings.Join(odd, ", ") + ".",
			Hint:    "Whatever made them is broken. POST /_e2ee_proxy/v1/reset makes an identity that others understand."}
	}
	return Link{Name: KeyIDs, State: OK, Message: "The keys of your identity have the names that others look for."}
}

// statusLink returns a link of which the status names no problem.
func (w *walk) statusLink(name string) Link {
	s := &w.f.Status
	// While the proxy sets a device up, and where something could not be read, a status leaves
	// problems out.
	unread := slices.ContainsFunc(s.Problems, func(p status.Problem) bool { return p.Code == "unreadable" || p.Code == "setting_up" })
	l := Link{Name: name, State: OK}
	ok := true
	switch name {
	case Identity:
		ok, l.Message = s.Identity.MasterKey != "", "There is one."
		if s.Identity.Ours {
			l.Message = "There is one, and its keys are here."
		}
	case Signature:
		ok, l.Message = s.Identity.DeviceSigned, "Your identity has confirmed this device."
	case Storage:
		ok, l.Message = s.SecretStorage.Complete, "It is complete."
	case Backup:
		ok, l.Message = s.Backup.Trusted && s.Backup.Readable, "It is on, with "+counted(s.Backup.Count, "key")+"."
		if !s.Backup.Enabled && !unread {
			ok, l.Message = true, "You have switched it off."
		}
	case OwnDevices:
		ok, l.Message = !unread, "There are no others with keys."
		if n := len(s.OtherDevices); n > 0 {
			l.Message = "Your identity has confirmed " + counted(n, "other") + " with keys, all that there are."
		}
	}
	if !ok {
		return Link{Name: name, State: Unknown, Message: "It could not be read; ask again in a moment."}
	}
	return l
}

// counted names a number of things.
func counted(n int, thing string) string {
	switch n {
	case 0:
		return "no " + thing + "s"
	case 1:
		return "one " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func (w *walk) oneTimeKeys() Link {
	l := Link{Name: OneTimeKeys, State: OK, Message: fmt.Sprintf("The homeserver has %d.", w.f.OneTimeKeys)}
	switch {
	case w.f.CountTrouble != "":
		l.State, l.Message = Unknown, w.f.CountTrouble
	case w.f.OneTimeKeys == 0:
		l.State, l.Message = Careful, "The homeserver has none left."
		l.Hint = "The proxy makes new ones by itself. If it stays so, look into its log."
	}
	return l
}

func (w *walk) talk() Link {
	if t := w.f.Talk; t.Step != "" {
		return Link{Name: Talk, State: Broken, Message: "A message to itself failed, when it was to " + t.Step + ": " + t.Trouble, Hint: "Mend what is broken before, and look into the proxy's log."}
	}
	return Link{Name: Talk, State: OK, Message: "A message to itself, in a room of its own, went out encrypted and came back in clear."}
}
