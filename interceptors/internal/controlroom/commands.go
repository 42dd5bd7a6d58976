package controlroom

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
)

// command is something that a person can write.
type command struct {
	names []string // the first is the one that help names
	args  string   // what belongs behind it
	help  string
	// secret reports whether what stands behind it is not kept.
	secret bool
	// keeps is what each word behind it can be, to be kept.
	keeps []func(word string) bool
	run   func(*turn)
}

// What can stand behind commands. Whatever else stands there can be a secret, or be meant for
// somebody else.
func keepsUser() []func(string) bool   { return []func(string) bool{isUser} }
func keepsDevice() []func(string) bool { return []func(string) bool{isUser, isDevice} }

func isUser(word string) bool {
	return strings.EqualFold(word, "me") || exchange.ValidUser(word)
}

// isDevice reports whether a word can be a device's ID: those of servers and of clients are of
// letters and digits.
func isDevice(word string) bool {
	return len(word) <= 64 && strings.IndexFunc(word, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '-'
	}) < 0
}

func isNumber(word string) bool {
	n, err := strconv.Atoi(strings.TrimSuffix(word, "."))
	return err == nil && n > 0 && n < 1000
}

// kept returns what is kept of a command that was written as name, with words behind it.
func (c *command) kept(name string, words []string) string {
	if c.secret && len(words) > 0 {
		return name + " " + keptKey
	}
	for i, valid := range c.keeps {
		if i == len(words) || !valid(words[i]) {
			break
		}
		name += " " + words[i]
	}
	return name
}

// commands are in the order in which help shows them.
func commands() []command {
	return []command{
		{names: []string{"help", "hilfe", "?"}, help: "shows this", run: (*turn).help},
		{names: []string{"status"}, help: "tells how things stand, and what to do if something is wrong", run: (*turn).status},
		{names: []string{"verify"}, args: "@bob:example.org (or: me)", help: "compares emoji or numbers with somebody, or with another device of yours, so that you know that nobody is listening in", keeps: keepsDevice(), run: (*turn).verify},
		{names: []string{"recover"}, help: "confirms this device with your recovery key, which you are asked for", secret: true, run: (*turn).recover},
		{names: []string{"setup", "bootstrap"}, help: "makes what your account has not: a digital identity, a recovery key, a backup of your messages", run: (*turn).setUp},
		{names: []string{"acknowledge", "accept"}, args: "@bob:example.org", help: "accepts somebody's digital identity that was reset", keeps: keepsUser(), run: (*turn).acknowledge},
		{names: []string{"withdraw"}, args: "@bob:example.org", help: "gives up that you had verified somebody", keeps: keepsUser(), run: (*turn).withdraw},
		{names: []string{"devices"}, args: "@bob:example.org", help: "lists somebody's devices; without a name, yours", keeps: keepsUser(), run: (*turn).devices},
		{names: []string{"trust"}, args: "@bob:example.org DEVICE", help: "makes an exception: the device counts as confirmed by its owner", keeps: keepsDevice(), run: func(w *turn) { w.exception(true) }},
		{names: []string{"distrust"}, args: "@bob:example.org DEVICE", help: "makes an exception: the device counts as not confirmed", keeps: keepsDevice(), run: func(w *turn) { w.exception(false) }},
		{names: []string{"undo"}, args: "@bob:example.org DEVICE", help: "ends an exception", keeps: keepsDevice(), run: (*turn).noException},
		{names: []string{"warnings"}, help: "lists what you were warned of", run: (*turn).warnings},
		{names: []string{"dismiss"}, args: "NUMBER", help: "drops a warning from that list", keeps: []func(string) bool{isNumber}, run: (*turn).dismiss},
		{names: []string{"backup"}, help: "tells whether your messages are saved. backup restore: fetches all that is saved", keeps: []func(string) bool{func(word string) bool { return strings.EqualFold(word, "restore") }}, run: (*turn).backup},
		{names: []string{"export"}, help: "gives you a file with the keys of your messages, locked with a passphrase that you choose", run: (*turn).export},
		{names: []string{"import"}, help: "takes such a file, also one of another program", run: (*turn).importKeys},
		{names: []string{"reset"}, help: "makes a new digital identity, if you have lost all of your devices and the recovery key", run: (*turn).reset},
		{names: []string{"saved"}, help: "takes a recovery key that is shown here out of this room", run: (*turn).saved},
		{names: []string{"cancel", "stop"}, help: "ends a question or a verification", run: (*turn).cancel},
	}
}

// commandOf returns the command of a name; nil when there is none.
func commandOf(name string) *command {
	all := commands()
	for i := range all {
		if slices.Contains(all[i].names, name) {
			return &all[i]
		}
	}
	return nil
}

// turn is one message of a person, while it is answered.
type turn struct {
	rooms *Rooms
	call  *call
	talk  *talk
	ctx   context.Context //nolint:containedctx // a turn is a request
	said  said
	words []string // behind the command
}

// run answers.
func (w *turn) run(do understood) {
	switch {
	case do.answer != nil:
		do.answer(w)
	case do.command != nil:
		do.command.run(w)
	}
}

func (w *turn) room() exchange.ControlRoom { return w.call.room }

func (w *turn) control() exchange.Control { return w.call.dev.Control() }

func (w *turn) user() id.UserID { return w.call.view.User }

// say says something. It returns the event's ID, so that it can be changed.
func (w *turn) say(text string) id.EventID { return w.post(e2ee.ControlText(text)) }

// sayf is say with a format.
func (w *turn) sayf(format string, args ...any) { w.say(fmt.Sprintf(format, args...)) }

func (w *turn) post(content json.RawMessage) id.EventID {
	event, err := w.room().Tell(w.ctx, content)
	w.note(err)
	return event
}

// change changes what was said.
func (w *turn) change(event id.EventID, text string) {
	if event == "" {
		return
	}
	w.note(w.room().Change(w.ctx, event, e2ee.ControlText(text)))
}

// note logs that something could not be said: there is nobody else to tell.
func (w *turn) note(err error) {
	if err != nil {
		zerolog.Ctx(w.ctx).Warn().Err(err).Msg("An answer in the control room could not be given")
	}
}

// failed says why something was not done.
func (w *turn) failed(err error) {
	zerolog.Ctx(w.ctx).Debug().Err(err).Msg("A command in the control room failed")
	w.say(reasonOf(err))
}

func (w *turn) help() {
	var out strings.Builder
	out.WriteString("You can write:\n")
	for _, c := range commands() {
		out.WriteString("\n" + c.names[0])
		if c.args != "" {
			out.WriteString(" " + c.args)
		}
		out.WriteString(": " + c.help)
	}
	out.WriteString("\n\nThe recovery key and passwords are only for this room, and only when you are asked for them here.")
	w.say(out.String())
}

// person returns the user that the command names.
func (w *turn) person() (id.UserID, bool) {
	if len(w.words) > 0 {
		name := strings.Trim(w.words[0], ",;<>")
		if exchange.ValidUser(name) {
			return id.UserID(name), true
		}
	}
	w.say("Write the person's whole name behind it, like: @bob:example.org")
	return "", false
}

func (w *turn) cancel() {
	if w.cancelVerification() {
		return
	}
	w.say("There is nothing to cancel.")
}

func (w *turn) saved() {
	if err := w.room().ForgetSecrets(w.ctx); err != nil {
		w.failed(err)
		return
	}
	w.note(w.control().DeleteRecoveryKey(w.ctx))
	w.say("All right. The recovery key is not shown here any more. Your client may still have it: look, and delete it there as well.")
}
