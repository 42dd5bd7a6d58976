package controlroom

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Commands about the user's own side.

// whatToDo says what can be written, or done, against a problem.
func whatToDo(p *e2ee.Problem) string {
	switch p.Code {
	case "no_identity", "secret_storage_missing", "backup_missing":
		return "Write: setup"
	case "device_not_signed":
		return "Write: recover. If you have lost your recovery key: reset"
	case "own_identity_changed":
		return "If it was you: write recover, and then your new recovery key. If it was not: change your password, log out devices that you do not know, then write: reset"
	case "secret_storage_incomplete", "backup_unreadable":
		return "Write: recover"
	case "backup_broken":
		return "Write: recover. If the backup was deleted: setup"
	case "signature_not_shown":
		return "Log out and log in again with another device ID. If the ID must stay, write: reset"
	}
	return p.Hint
}

func (w *turn) status() {
	event := w.say("One moment: your homeserver is asked …")
	status, err := w.control().Status(w.ctx)
	if err != nil {
		w.change(event, reasonOf(err))
		return
	}
	lines := []string{"All is well: your messages in encrypted rooms are encrypted, and others can see that they are yours."}
	if len(status.Problems) > 0 {
		lines = append([]string{"Something needs your attention:"}, problemsText(status.Problems)...)
	}
	lines = append(lines, "", "You are "+status.UserID.String()+", and this device is "+status.DeviceID.String()+".", backupText(&status))
	if status.Identity.MasterKey != "" {
		lines = append(lines, "The fingerprint of your digital identity: "+fingerprint(status.Identity.MasterKey))
	}
	if n := len(status.Warnings); n == 1 {
		lines = append(lines, "One warning is open: write warnings to see it.")
	} else if n > 1 {
		lines = append(lines, "Some warnings are open: write warnings to see them.")
	}
	for _, o := range status.Overrides {
		how := "confirmed"
		if !o.Trusted {
			how = "not confirmed"
		}
		if o.Gone {
			how += ", if it is shown again"
		}
		lines = append(lines, "You made an exception: the device "+o.DeviceID.String()+" of "+o.UserID.String()+" counts as "+how+".")
	}
	w.change(event, strings.Join(lines, "\n"))
}

func (w *turn) recover() {
	if len(w.words) > 0 {
		w.useKey(secret.NewString(strings.Join(w.words, " ")))
		return
	}
	w.ask("Write your recovery key, or the passphrase that you chose for it. It is not kept here, and not sent to your homeserver. To leave it, write cancel.", question{secret: true, kept: keptKey, then: (*turn).useKey})
}

// useKey recovers with a key, or with a passphrase.
func (w *turn) useKey(key secret.String) {
	if err := w.rooms.opt.Limits.Recover(w.ctx, w.user()); err != nil {
		w.failed(err)
		return
	}
	with := e2ee.Recovery{Passphrase: key}
	if e2ee.WellFormedRecoveryKey(key) {
		with = e2ee.Recovery{Key: key}
	}
	event := w.say("One moment …")
	err := w.control().Recover(w.ctx, with)
	switch {
	case errors.Is(err, e2ee.ErrWrongRecoveryKey), errors.Is(err, e2ee.ErrNoPassphrase):
		w.change(event, "That is neither your recovery key nor its passphrase. Nothing was changed. The key has 12 groups of four letters and digits. To try again, write: recover")
	case err != nil:
		w.change(event, reasonOf(err))
	default:
		w.change(event, "Done. This device is confirmed with your digital identity. To fetch all older messages' keys as well, write: backup restore")
	}
}

func (w *turn) setUp() {
	w.withPassword(w.control().Bootstrap, "Done. Your account has everything that it needs.", "Your new recovery key is:")
}

func (w *turn) reset() {
	w.ask("A reset makes a new digital identity. Everybody whom you write with is told, those who verified you must do it again, and old messages that only your old recovery key opens are lost. "+
		"It is for when you have lost all of your devices and the recovery key; if you have the key, write recover instead. Write yes to reset, else no.", question{then: func(w *turn, _ secret.String) {
		if err := w.rooms.opt.Limits.Reset(w.ctx, w.user()); err != nil {
			w.failed(err)
			return
		}
		w.withPassword(w.control().Reset, "Done. You have a new digital identity.", "Your new recovery key is:")
	}})
}

// withPassword does something for which the homeserver may ask for the password, and shows the
// recovery key that comes of it, once.
func (w *turn) withPassword(do func(ctx ctxType, auth e2ee.UserAuth) (secret.String, error), done, keyIs string) {
	var try func(w *turn, password secret.String)
	try = func(w *turn, password secret.String) {
		event := w.say("One moment …")
		key, err := do(w.ctx, e2ee.UserAuth{Password: password})
		var needed *e2ee.AuthNeededError
		switch {
		case errors.As(err, &needed) && needed.URL != "":
			w.change(event, "Your homeserver wants you to allow this first. Open this page in a browser, allow it, and then write the same command again:\n"+needed.URL)
		case errors.As(err, &needed) && password.IsZero() && strings.Contains(string(needed.Body), `m.login.password`):
			w.change(event, "Your homeserver asks for the password of your account. Write it now. It is not kept here. To leave it, write cancel.")
			w.askBy(event, question{secret: true, kept: keptPassword, then: try})
		case errors.As(err, &needed):
			w.change(event, "Your homeserver asks for something that cannot be done here. Do it in another client that has encryption, and write recover afterwards.")
		case errors.Is(err, e2ee.ErrWrongPassword):
			w.change(event, "The homeserver did not accept the password. Nothing was changed. Write the command again to try again.")
		case err != nil:
			w.change(event, reasonOf(err))
		case key.IsZero():
			w.change(event, done)
		default:
			w.change(event, done)
			_, err := w.room().TellOnce(w.ctx, e2ee.ControlText(keyIs+"\n\n"+key.Reveal()+
				"\n\nWrite it down and keep it where nobody else finds it: with it you get your digital identity and your messages back on another device. Then write saved, and it is not shown here any more."))
			w.note(err)
		}
	}
	try(w, secret.String{})
}

func backupText(s *e2ee.Status) string {
	b := &s.Backup
	switch {
	case !b.Enabled:
		return "Your messages are not saved: backup was switched off."
	case b.Version == "":
		return "Your messages are not saved: there is no backup."
	case !b.Trusted:
		return "Your messages are not saved: the backup cannot be checked from here."
	case b.Pending > 0:
		return "Your messages are being saved: some keys are still to be uploaded."
	}
	return "Your messages are saved in your backup."
}

// The backup of messages, and how far it is fetched.

const (
	// lookEvery is how often progress is looked at, followFor for how long.
	lookEvery = 2 * time.Second
	followFor = time.Hour
)

func (w *turn) backup() {
	if len(w.words) > 0 && strings.EqualFold(w.words[0], "restore") {
		w.restore()
		return
	}
	status, err := w.control().Status(w.ctx)
	if err != nil {
		w.failed(err)
		return
	}
	lines := []string{backupText(&status)}
	if status.Backup.Version != "" {
		lines = append(lines, fmt.Sprintf("Keys in the backup: %d. Still to be saved: %d.", status.Backup.Count, status.Backup.Pending))
	}
	if r := status.Backup.Restore; r != nil {
		lines = append(lines, restoreText(r))
	}
	for i := range status.Problems {
		if p := &status.Problems[i]; strings.HasPrefix(p.Code, "backup") {
			lines = append(lines, "• "+p.Message+" "+whatToDo(p))
		}
	}
	w.say(strings.Join(lines, "\n"))
}

func restoreText(r *e2ee.RestoreStatus) string {
	switch r.State {
	case "done":
		return fmt.Sprintf("All that was saved has been fetched: %d keys, of which %d were new here.", r.Done, r.Restored)
	case "failed":
		return fmt.Sprintf("Fetching what was saved was interrupted at %s; it goes on by itself.", share(r.Done, r.Total))
	}
	return fmt.Sprintf("Fetching what was saved: %s, %d of %d keys.", share(r.Done, r.Total), r.Done, r.Total)
}

func share(done, total int) string {
	if total <= 0 {
		return "0 %"
	}
	return fmt.Sprintf("%d %%", min(100*done/total, 100))
}

// restore fetches everything, and shows how far it is by changing one message.
func (w *turn) restore() {
	if err := w.rooms.opt.Limits.Keys(w.ctx, w.user()); err != nil {
		w.failed(err)
		return
	}
	if err := w.control().RestoreHistory(w.ctx); err != nil {
		w.failed(err)
		return
	}
	event := w.say("Fetching what was saved …")
	followed := w.later("restore "+event.String(), followFor, func(w *turn) {
		last := ""
		for {
			r := w.call.dev.RestoreStatus()
			if r == nil {
				return
			}
			if text := restoreText(r); text != last {
				w.change(event, text)
				last = text
			}
			if r.State == "done" || !w.wait(lookEvery) {
				return
			}
		}
	})
	if !followed {
		w.change(event, "Fetching what was saved. To see how far that is, write: backup")
	}
}
