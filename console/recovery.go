package console

import (
	"errors"
	"net/http"
	"strings"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

type recoveryData struct {
	Status e2ee.Status
	// HasKey reports whether there is a recovery key that was not shown yet; Needs whether the
	// device needs one, and Lacks whether something is to be set up.
	HasKey, Needs, Lacks bool
}

func recovery(q *query) error {
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	data := recoveryData{Status: status}
	switch key, err := q.device.RecoveryKey(q.ctx); {
	case err == nil:
		data.HasKey = !key.IsZero()
	case !errors.Is(err, e2ee.ErrNoRecoveryKey):
		return err
	}
	for _, p := range status.Problems {
		switch p.Code {
		case "device_not_signed", "own_identity_changed", "secret_storage_incomplete", "backup_unreadable":
			data.Needs = true
		case "no_identity", "secret_storage_missing", "backup_missing":
			data.Lacks = true
		case "backup_broken":
			data.Needs, data.Lacks = true, true
		}
	}
	return q.show("recovery", "recovery", "Recovery", data)
}

// actOnRecovery does what a button on the page says. What a person types in is used once.
func actOnRecovery(q *query) error {
	form := q.Request.PostForm
	switch q.Endpoint.Params["action"] {
	case "show":
		key, err := q.device.RecoveryKey(q.ctx)
		if err == nil && key.IsZero() {
			err = e2ee.ErrNoRecoveryKey
		}
		if err != nil {
			return err
		}
		return q.showKey(key)
	case "enter":
		return recoverWith(q, form.Get("recovery_key"), form.Get("restore") != "")
	case "create":
		key, err := q.device.Bootstrap(q.ctx, e2ee.UserAuth{Password: takePassword(q)})
		if err != nil {
			return err
		}
		if key.IsZero() {
			return q.redirect("/recovery", "created")
		}
		return q.showKey(key)
	case "reset":
		return reset(q)
	}
	return apierr.NotImplemented("There is no such page.")
}

// takePassword takes the password out of a form.
func takePassword(q *query) secret.String {
	password := secret.NewString(q.Request.PostForm.Get("password"))
	q.Request.PostForm.Del("password")
	return password
}

// showKey shows a recovery key, for the only time: it cannot be read any more once the browser has
// taken the page.
func (q *query) showKey(key secret.String) error {
	v := q.view("key", "Your recovery key")
	v.Place, v.Data = "recovery", key.Reveal()
	if err := q.write(http.StatusOK, v); err != nil {
		return err
	}
	if err := http.NewResponseController(q.Writer).Flush(); err != nil {
		return nil //nolint:nilerr // the page may not have arrived, so that it can be asked for again
	}
	return q.device.DeleteRecoveryKey(q.ctx)
}

// tooOften says for a person that a limit refuses something.
func tooOften(err error) error {
	if limit, ok := errors.AsType[*apierr.Error](err); ok {
		limit.Text, limit.Hint = "This was tried too often.", "Wait "+limit.Header.Get("Retry-After")+" seconds, then try again."
	}
	return err
}

// recoverWith recovers with what a person typed in: a recovery key if it looks like one, in
// whatever groups, else a passphrase.
func recoverWith(q *query, typed string, restore bool) error {
	q.Request.PostForm.Del("recovery_key")
	if strings.TrimSpace(typed) == "" {
		return apierr.MissingParam("Nothing was entered.").WithHint("Enter your recovery key. It begins with Es.")
	}
	if err := tooOften(q.c.o.Limits.Recover(q.ctx, q.session.UserID)); err != nil {
		return err
	}
	with := e2ee.Recovery{Restore: restore}
	key := secret.NewString(strings.Join(strings.Fields(typed), ""))
	if e2ee.WellFormedRecoveryKey(key) {
		with.Key = key
	} else {
		with.Passphrase = secret.NewString(typed)
	}
	err := q.device.Recover(q.ctx, with)
	if with.Key.IsZero() && errors.Is(err, e2ee.ErrNoPassphrase) { // it was meant to be a recovery key
		err = e2ee.ErrWrongRecoveryKey
	}
	if err != nil {
		return err
	}
	if restore {
		return q.redirect("/backup", "restoring")
	}
	return q.redirect("/recovery", "recovered")
}

// reset makes a new identity, if the person has said twice that they want that.
func reset(q *query) error {
	if q.Request.PostForm.Get("sure") != "yes" {
		return apierr.MissingParam("Nothing was changed: the box that says that you are sure was not ticked.").
			WithHint("A reset is for who has lost the recovery key and every other device. Go back, and tick the box if that is so.")
	}
	if err := tooOften(q.c.o.Limits.Reset(q.ctx, q.session.UserID)); err != nil {
		return err
	}
	if !q.c.begin(q.session.UserID) {
		return apierr.NewError(http.StatusConflict, apierr.CodeUnknown, "Your digital identity is being reset already.").WithHint("Look at the page again in a moment.")
	}
	defer q.c.end(q.session.UserID)
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	begun := false
	if q.Again { // by a replica that was killed
		if begun, err = q.device.ResetBegun(q.ctx, q.RequestID); err != nil {
			return err
		}
	}
	if string(status.Identity.MasterKey) != q.Request.PostForm.Get("identity") && !begun {
		return apierr.NewError(http.StatusConflict, apierr.CodeUnknown, "Nothing was changed: your digital identity is not the one that it was when you opened this page.").
			WithHint("It may be reset already. Look at the page again.")
	}
	key, err := q.device.ResetOnce(q.ctx, q.RequestID, e2ee.UserAuth{Password: takePassword(q)})
	if err != nil {
		return err
	}
	return q.showKey(key)
}

type backupData struct {
	e2ee.BackupStatus
	// Percent is how much of the history was fetched.
	Percent int
	Running bool
}

func backup(q *query) error {
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	data := backupData{BackupStatus: status.Backup}
	if r := status.Backup.Restore; r != nil {
		data.Running = r.State == "running"
		if r.Total > 0 {
			data.Percent = min(100, r.Done*100/r.Total)
		}
	}
	v := q.view("backup", "Message history")
	v.Data, v.Live = data, true
	if data.Running {
		v.Again = 5
	}
	return q.write(http.StatusOK, v)
}

func restore(q *query) error {
	if err := tooOften(q.c.o.Limits.Keys(q.ctx, q.session.UserID)); err != nil {
		return err
	}
	if err := q.device.RestoreHistory(q.ctx); err != nil {
		return err
	}
	return q.redirect("/backup", "restoring")
}
