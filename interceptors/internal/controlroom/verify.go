package controlroom

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Verifications are done in the room with emoji and numbers, which a person reads out to the
// other one. A verification that is under way is followed until it ends, and each step that a
// person has to know of, or to do, is said.

// verifyFor is how long a verification is followed at most: they end by themselves before.
const verifyFor = 30 * time.Minute

func (w *turn) verify() {
	user := w.user()
	if len(w.words) == 0 {
		w.say("Write whom: verify @bob:example.org. For another device of yours: verify me")
		return
	}
	if !strings.EqualFold(w.words[0], "me") {
		var ok bool
		if user, ok = w.person(); !ok {
			return
		}
	}
	var with e2ee.VerificationPartner
	if len(w.words) > 1 {
		with.DeviceID = id.DeviceID(w.words[1])
	}
	flow, err := w.begin(user, with)
	if errors.Is(err, e2ee.ErrUnknownDevice) && with.DeviceID == "" {
		w.noDevice(user)
		return
	}
	if err != nil {
		w.failed(err)
		return
	}
	if !w.follow(flow) {
		w.say("Too much is going on at the moment. Try again in some minutes.")
	}
}

// noDevice says that there is no device with which somebody could be verified.
func (w *turn) noDevice(user id.UserID) {
	if user == w.user() {
		w.say("You have no other device with encryption that could be asked. Log in with one, such as Element, and write again: verify me")
		return
	}
	w.sayf("%s has no device with encryption that could be asked.", user)
}

// begin accepts a verification that the other side has asked for, or asks for one.
func (w *turn) begin(user id.UserID, with e2ee.VerificationPartner) (e2ee.Verification, error) {
	all, err := w.control().Verifications(w.ctx)
	if err != nil {
		return e2ee.Verification{}, err
	}
	i := slices.IndexFunc(all, func(v e2ee.Verification) bool {
		return v.UserID == user && v.Incoming && v.State == e2ee.VerificationRequested && (with.DeviceID == "" || v.DeviceID == with.DeviceID)
	})
	if i >= 0 {
		return w.control().AcceptVerification(w.ctx, all[i].ID)
	}
	flow, err := w.control().RequestVerification(w.ctx, user, with)
	if err == nil {
		what := user.String() + " was asked. They have to accept in their client; then you are shown here what to compare."
		if flow.RoomID != "" {
			what = user.String() + " was asked in your conversation with them. They have to accept there; then you are shown here what to compare."
		}
		if flow.Own {
			what = "Your other devices were asked. Accept in one of them; then you are shown here what to compare."
		}
		w.say(what + " To leave it, write cancel.")
	}
	return flow, err
}

// follow says what happens in a verification until it ends.
func (w *turn) follow(v e2ee.Verification) bool {
	return w.later("verification "+v.ID, verifyFor, func(w *turn) {
		var told e2ee.VerificationState
		for {
			changed := w.control().WatchVerifications(w.ctx)
			now, err := w.control().Verification(w.ctx, v.ID)
			if errors.Is(err, e2ee.ErrNoVerification) {
				return // the device went to another process, which says so
			}
			if err != nil {
				w.failed(err)
				return
			}
			var again <-chan time.Time // nil: nothing is held back
			if now.State != told {
				if w.tellStep(&now) {
					told = now.State
				} else {
					again = time.After(lookEvery)
				}
			}
			if now.State.Over() {
				return
			}
			select {
			case <-changed:
			case <-again:
			case <-w.ctx.Done():
				return
			}
		}
	})
}

// tellStep says where a verification is, and asks what a person has to answer. It returns false
// while another question is open: the other side chooses when its own comes, and the answer to
// one must never be taken for that to the other.
func (w *turn) tellStep(v *e2ee.Verification) bool {
	w.talk.mu.Lock()
	defer w.talk.mu.Unlock()
	flow := v.ID
	asks := v.State == e2ee.VerificationCompare || v.State == e2ee.VerificationScanned
	if asks && w.talk.isOpen(flow) {
		return false
	}
	switch v.State {
	case e2ee.VerificationRequested, e2ee.VerificationStarted:
	case e2ee.VerificationReady:
		if _, err := w.control().StartEmoji(w.ctx, flow); err != nil {
			w.failed(err)
		}
	case e2ee.VerificationCompare:
		w.ask(compareText(v), question{
			flow: flow,
			then: func(w *turn, _ secret.String) { w.answerFlow(w.control().ConfirmEmoji(w.ctx, flow, true)) },
			no:   func(w *turn) { w.answerFlow(w.control().ConfirmEmoji(w.ctx, flow, false)) },
		})
	case e2ee.VerificationScanned:
		w.ask("The other side says that it has scanned a code. Does it show that this worked? Write yes or no.", question{
			flow: flow,
			then: func(w *turn, _ secret.String) { w.answerFlow(w.control().ConfirmScanned(w.ctx, flow, true)) },
			no:   func(w *turn) { w.answerFlow(w.control().ConfirmScanned(w.ctx, flow, false)) },
		})
	case e2ee.VerificationConfirmed:
		w.say("Now the other side has to say that it sees the same.")
	case e2ee.VerificationDone:
		w.talk.end(flow)
		w.say(doneText(v))
	case e2ee.VerificationCancelled:
		w.talk.end(flow)
		text := "The verification has ended, and nothing was verified."
		if v.Message != "" {
			text += " " + v.Message
		}
		w.say(text)
	}
	return true
}

// answerFlow says why an answer could not be given; what follows from it is said by follow.
func (w *turn) answerFlow(_ e2ee.Verification, err error) {
	if err != nil {
		w.failed(err)
	}
}

// compareText shows emoji and numbers: some clients show only one of them.
func compareText(v *e2ee.Verification) string {
	var out strings.Builder
	out.WriteString("Compare these with what the other side shows. ")
	if !v.Own {
		out.WriteString("Do it by phone, or when you meet, not in a chat. ")
	}
	out.WriteString("They must be the same, in the same order.\n")
	for _, e := range v.Emoji {
		fmt.Fprintf(&out, "\n%s %s", e.Symbol, e.Name)
	}
	if d := v.Decimals; d != nil {
		fmt.Fprintf(&out, "\n\nOr, where numbers are shown: %d %d %d", d[0], d[1], d[2])
	}
	out.WriteString("\n\nAre they the same? Write yes or no.")
	return out.String()
}

func doneText(v *e2ee.Verification) string {
	if v.Own {
		return "Done. This device and your other one have verified each other."
	}
	return "Done. You have verified " + v.UserID.String() + ". If their digital identity is ever reset, you are told, and nothing is sent to them until you verify them again."
}

// cancelVerification ends the newest verification that is under way; false if there is none.
func (w *turn) cancelVerification() bool {
	all, err := w.control().Verifications(w.ctx)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(all, func(v e2ee.Verification) bool { return !v.State.Over() })
	if i < 0 {
		return false
	}
	if err := w.control().CancelVerification(w.ctx, all[i].ID); err != nil {
		w.failed(err)
		return true
	}
	w.say("The verification with " + all[i].UserID.String() + " is ended.")
	return true
}
