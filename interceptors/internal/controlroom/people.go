package controlroom

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Commands about other people, and about what the user was warned of.

// fingerprint returns a key in groups that people can compare.
func fingerprint(key id.Ed25519) string {
	var groups []string
	for rest := key.String(); rest != ""; {
		n := min(4, len(rest))
		groups, rest = append(groups, rest[:n]), rest[n:]
	}
	return strings.Join(groups, " ")
}

func (w *turn) acknowledge() {
	user, ok := w.person()
	if !ok {
		return
	}
	trust, err := w.control().User(w.ctx, user)
	switch {
	case err != nil:
		w.failed(err)
		return
	case trust.State == "verification_lost":
		w.failed(e2ee.ErrVerificationLost)
		return
	case trust.State != "changed":
		w.sayf("There is nothing to accept: the digital identity of %s has not been reset since it was first seen.", user)
		return
	}
	key := trust.CurrentMasterKey
	w.ask(fmt.Sprintf("The digital identity of %s was reset. The fingerprint of the new one is:\n%s\n"+
		"Have you asked them in another way, such as by phone, whether that was them? If it was: write yes, and your messages go to them again. Else write no.", user, fingerprint(key)), question{then: func(w *turn, _ secret.String) {
		if err := w.control().Acknowledge(w.ctx, user, key); err != nil {
			w.failed(err)
			return
		}
		w.sayf("Done. You have accepted the new digital identity of %s. Messages that were refused because of it can be sent now: send them again.", user)
	}})
}

func (w *turn) withdraw() {
	user, ok := w.person()
	if !ok {
		return
	}
	trust, err := w.control().User(w.ctx, user)
	switch {
	case err != nil:
		w.failed(err)
		return
	case trust.State == "verified":
		w.sayf("%s is verified, and their digital identity is still the one that you verified. This command is for when it was reset.", user)
		return
	case trust.State != "verification_lost":
		w.sayf("You have not verified %s, so there is nothing to give up.", user)
		return
	}
	w.ask(fmt.Sprintf("From then on %s counts as somebody whom you never verified, and your messages go to them again. Write yes to give the verification up, else no.", user), question{then: func(w *turn, _ secret.String) {
		if err := w.control().WithdrawVerification(w.ctx, user); err != nil {
			w.failed(err)
			return
		}
		w.sayf("Done. %s is not verified any more.", user)
	}})
}

// stateText says how somebody's identity stands.
func stateText(trust *e2ee.UserTrust) string {
	switch trust.State {
	case "verified":
		return "You have verified them."
	case "changed":
		return "Their digital identity was reset. Nothing is sent to encrypted rooms with them until you accept it: acknowledge " + trust.UserID.String()
	case "verification_lost":
		return "You had verified them, and their digital identity was reset. Nothing is sent to encrypted rooms with them until you verify them again (verify " +
			trust.UserID.String() + ") or give that up (withdraw " + trust.UserID.String() + ")."
	case "pinned":
		return "You have not verified them. To do that, write: verify " + trust.UserID.String()
	}
	return "They have no digital identity yet, as far as is known here."
}

func deviceText(d *e2ee.DeviceTrust) string {
	how := "confirmed by its owner"
	if !d.Signed {
		how = "NOT confirmed by its owner: it is given no messages, and its messages are not shown"
	}
	switch {
	case d.Override == nil:
	case *d.Override:
		how += "; by your exception it counts as confirmed"
	default:
		how += "; by your exception it counts as not confirmed"
	}
	return d.DeviceID.String() + ": " + how
}

func (w *turn) devices() {
	if len(w.words) == 0 || w.words[0] == "me" || w.words[0] == w.user().String() {
		w.ownDevices()
		return
	}
	user, ok := w.person()
	if !ok {
		return
	}
	trust, err := w.control().User(w.ctx, user)
	if err != nil {
		w.failed(err)
		return
	}
	lines := []string{user.String() + ": " + stateText(&trust)}
	if trust.CurrentMasterKey != "" {
		lines = append(lines, "Fingerprint: "+fingerprint(trust.CurrentMasterKey))
	}
	if len(trust.Devices) == 0 {
		lines = append(lines, "No devices of theirs are known here.")
	}
	w.say(strings.Join(append(lines, deviceLines(trust.Devices)...), "\n"))
}

// maxListed is how many devices one message lists.
const maxListed = 50

func deviceLines(devices []e2ee.DeviceTrust) []string {
	var lines []string
	for i := range devices[:min(len(devices), maxListed)] {
		lines = append(lines, deviceText(&devices[i]))
	}
	if more := len(devices) - maxListed; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

func (w *turn) ownDevices() {
	status, err := w.control().Status(w.ctx)
	if err != nil {
		w.failed(err)
		return
	}
	here := "confirmed"
	if !status.Identity.DeviceSigned {
		here = "NOT confirmed"
	}
	lines := []string{"This device: " + status.DeviceID.String() + ", " + here + "."}
	if len(status.OtherDevices) == 0 {
		lines = append(lines, "You have no other devices with encryption.")
	} else {
		lines = append(lines, "Your other devices:")
	}
	w.say(strings.Join(append(lines, deviceLines(status.OtherDevices)...), "\n"))
}

// deviceOf returns the person and the device that the command names.
func (w *turn) deviceOf() (user id.UserID, device id.DeviceID, ok bool) {
	if user, ok = w.person(); !ok {
		return "", "", false
	}
	if len(w.words) < 2 {
		w.sayf("Write the device behind it, as it stands in the list that you get with: devices %s", user)
		return "", "", false
	}
	return user, id.DeviceID(w.words[1]), true
}

func (w *turn) exception(trusted bool) {
	user, device, ok := w.deviceOf()
	if !ok {
		return
	}
	warning := "From then on the device " + device.String() + " of " + user.String() + " gets your messages although its owner has not confirmed it. That is for trying things out: whoever has that device can read them."
	if !trusted {
		warning = "From then on the device " + device.String() + " of " + user.String() + " gets no messages of yours, and its messages are not shown."
	}
	w.ask(warning+" Write yes to make this exception, else no.", question{then: func(w *turn, _ secret.String) {
		if err := w.control().SetOverride(w.ctx, user, device, &trusted); err != nil {
			w.failed(err)
			return
		}
		w.sayf("Done. To end the exception, write: undo %s %s", user, device)
	}})
}

func (w *turn) noException() {
	user, device, ok := w.deviceOf()
	if !ok {
		return
	}
	if err := w.control().SetOverride(w.ctx, user, device, nil); err != nil {
		w.failed(err)
		return
	}
	w.sayf("Done. There is no exception for the device %s of %s any more.", device, user)
}

func (w *turn) warnings() {
	all, err := w.control().Warnings(w.ctx)
	if err != nil {
		w.failed(err)
		return
	}
	if len(all) == 0 {
		w.say("There are no warnings.")
		return
	}
	lines := []string{"These warnings are open. To drop the first one, write: dismiss 1"}
	for i := range all {
		lines = append(lines, strconv.Itoa(i+1)+". "+all[i].Message)
	}
	w.say(strings.Join(lines, "\n"))
}

var errWhichWarning = errors.New("no number")

func (w *turn) dismiss() {
	all, err := w.control().Warnings(w.ctx)
	if err == nil {
		n := 0
		if len(w.words) > 0 {
			n, _ = strconv.Atoi(strings.Trim(w.words[0], "."))
		}
		if n < 1 || n > len(all) {
			err = errWhichWarning
		} else {
			err = w.control().DismissWarning(w.ctx, all[n-1].ID)
		}
	}
	switch {
	case errors.Is(err, errWhichWarning):
		w.say("Write the number of the warning behind it, as it stands in the list that you get with: warnings")
	case err != nil:
		w.failed(err)
	default:
		w.say("Done. The warning is dropped; what it was about is as it was.")
	}
}

// problemsText lists problems with what can be written against them.
func problemsText(problems []e2ee.Problem) []string {
	var lines []string
	for _, p := range slices.Compact(slices.Clone(problems)) {
		lines = append(lines, "• "+p.Message+" "+whatToDo(&p))
	}
	return lines
}
