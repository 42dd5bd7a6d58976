package console

import (
	"slices"

	"e2ee-proxy/e2ee"
)

// homeData is the page on which a person sees how things stand: one sentence, then what to do.
type homeData struct {
	Status   e2ee.Status
	Fine     bool
	Sentence string
	Steps    []step
	// Warnings are those that no step and no flow is about.
	Warnings []e2ee.Warning
	// Flows are verifications that wait for the person.
	Flows []e2ee.Verification
}

// step is one thing to do, and where.
type step struct {
	Code, What, Do, Link, Path string
}

func home(q *query) error {
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	flows, err := waiting(q)
	if err != nil {
		return err
	}
	data := homeData{Status: status, Flows: flows}
	again := false
	said := map[string]bool{"verification_requested": true} // by the flows
	for _, p := range status.Problems {
		s := stepFor(p)
		again, said[p.Code] = again || s.Path == "", true
		data.Steps = append(data.Steps, s)
	}
	data.Warnings = slices.DeleteFunc(slices.Clone(status.Warnings), func(w e2ee.Warning) bool { return said[w.Code] })
	data.Fine, data.Sentence = sentence(&status, data.Warnings)
	if data.Fine && len(flows) > 0 {
		data.Fine, data.Sentence = false, "A verification waits for you."
	}
	v := q.view("status", "How your account stands")
	v.Data, v.Live = data, true
	if again && len(data.Steps) == 1 {
		v.Again = 10
	}
	return q.write(200, v)
}

// sentence says in one sentence how things stand.
func sentence(s *e2ee.Status, warnings []e2ee.Warning) (fine bool, text string) {
	worst := ""
	for _, p := range s.Problems {
		switch p.Code {
		case "device_not_signed", "own_identity_changed", "keys_replaced", "keys_refused", "signature_not_shown", "signature_refused", "no_identity", "keys_lost", "no_device", "device_has_own_keys":
			return false, "Your messages do not reach encrypted rooms from here yet."
		case "setting_up", "unreadable", "keys_being_replaced":
			worst = or(worst, "The proxy is still at work on your account.")
		case "other_devices_not_signed":
			worst = or(worst, "Everything works here, but not all of your devices are confirmed.")
		default:
			worst = "Your messages are encrypted, but your message history is not safe."
		}
	}
	blocked := 0
	for _, w := range warnings {
		if w.Code == "identity_changed" || w.Code == "verification_lost" {
			blocked++
		}
	}
	switch {
	case worst != "":
		return false, worst
	case blocked > 0:
		return false, "Some rooms wait for you: somebody's digital identity was reset."
	case len(warnings) > 0:
		return false, "There is a warning that you should read."
	case !s.Backup.Enabled:
		return true, "All is well. Your messages are encrypted. Their history is not saved, as you chose."
	}
	return true, "All is well. Your messages are encrypted, and their history is saved."
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// stepFor says what a person does about a problem, with the pages that are here.
func stepFor(p e2ee.Problem) step {
	s := step{Code: p.Code, What: p.Message}
	switch p.Code {
	case "no_identity", "secret_storage_missing", "backup_missing":
		s.Do, s.Link, s.Path = "Set it up. You are given a recovery key, which you should keep.", "Set it up", "/recovery"
	case "device_not_signed":
		s.Do, s.Link, s.Path = "Enter your recovery key, or verify this device with another one of yours.", "Confirm this device", "/recovery"
	case "own_identity_changed":
		s.Do = "If it was you, enter your new recovery key. If it was not: change your password, log out devices that you do not know, then reset your digital identity."
		s.Link, s.Path = "Go to recovery", "/recovery"
	case "secret_storage_incomplete", "backup_unreadable":
		s.Do, s.Link, s.Path = "Enter your recovery key.", "Go to recovery", "/recovery"
	case "backup_broken":
		s.Do, s.Link, s.Path = "Enter your recovery key, or set up a new backup if the old one was deleted.", "Go to recovery", "/recovery"
	case "other_devices_not_signed":
		s.Do, s.Link, s.Path = "Verify each of them, or log it out if you do not know it.", "Look at your devices", "/devices"
	case "signature_not_shown", "signature_refused", "keys_replaced", "keys_refused":
		s.Do = "Log out in the client and log in again, so that it gets a new device ID. If that does not help, ask the administrator of the homeserver."
		s.Link, s.Path = "Look at your devices", "/devices"
	case "keys_lost":
		s.Do = "Log out in the client and log in again, so that it becomes a new device."
		s.Link, s.Path = "Look at your devices", "/devices"
	case "setting_up", "unreadable", "keys_being_replaced":
		s.Do = "There is nothing for you to do. Look again in a few seconds."
	default:
		s.Do = p.Hint
	}
	return s
}

// noDevice answers a person for whom there is no device that the proxy encrypts for.
func (q *query) noDevice() error {
	if q.Endpoint.Pattern == "/_e2ee_proxy/console" && q.isAdmin() {
		return q.redirect("/admin", "")
	}
	return q.show("nodevice", "status", "No device yet", nil)
}

func devices(q *query) error {
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	return q.show("devices", "devices", "Your devices", status)
}

// choose changes the device for which the person acts.
func choose(q *query) error {
	for _, h := range q.held {
		if string(h.DeviceID) == q.Request.PostForm.Get("device_id") {
			if err := q.c.gate.Choose(q.ctx, q.session, h.DeviceID); err != nil {
				return err
			}
			return q.redirect("", "acting")
		}
	}
	return e2ee.ErrUnknownDevice
}

func warnings(q *query) error {
	all, err := q.device.Warnings(q.ctx)
	if err != nil {
		return err
	}
	return q.show("warnings", "warnings", "Warnings", all)
}

func dismiss(q *query) error {
	if err := q.device.DismissWarning(q.ctx, q.Endpoint.Params["warningId"]); err != nil {
		return err
	}
	return q.redirect("/warnings", "dismissed")
}

func exceptions(q *query) error {
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	return q.show("exceptions", "exceptions", "Exceptions", status.Overrides)
}

func rollout(q *query) error {
	status, err := q.device.Status(q.ctx)
	if err != nil {
		return err
	}
	return q.show("rollout", "rollout", "Strictness", rolloutOf(status.Policy))
}
