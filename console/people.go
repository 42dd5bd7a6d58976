package console

import (
	"net/url"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// peoplePage is how many people a page has.
const peoplePage = 50

type peopleData struct {
	// Attention are those about whom there is a warning.
	Attention []e2ee.Warning
	People    []e2ee.Person
	Next      id.UserID
}

func people(q *query) error {
	var data peopleData
	all, err := q.device.Warnings(q.ctx)
	if err != nil {
		return err
	}
	for _, w := range all {
		if w.UserID != "" && w.UserID != q.session.UserID && w.Code != "verification_requested" {
			data.Attention = append(data.Attention, w)
		}
	}
	data.People, err = q.device.People(q.ctx, id.UserID(q.Request.URL.Query().Get("after")), peoplePage)
	if err != nil {
		return err
	}
	if len(data.People) == peoplePage {
		data.Next = data.People[peoplePage-1].UserID
	}
	return q.show("people", "people", "People", data)
}

// userOf reads the ID of a user as a person wrote it, with blanks around it.
func userOf(text string) (id.UserID, error) {
	text = strings.TrimSpace(text)
	text = strings.TrimPrefix(text, "https://matrix.to/#/")
	user := id.UserID(text)
	local, server, err := user.Parse()
	if err != nil || local == "" || server == "" || len(text) > 255 || strings.ContainsAny(text, " /?#\t\r\n") {
		return "", apierr.InvalidParam("“" + shortened(text) + "” is not a person's ID.").WithHint("One is written like @alice:example.org. Go back and try again.")
	}
	return user, nil
}

func shortened(text string) string {
	if r := []rune(text); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return text
}

func findPerson(q *query) error {
	user, err := userOf(q.Request.PostForm.Get("user_id"))
	if err != nil {
		return err
	}
	if _, err := q.device.User(q.ctx, user); err != nil {
		return err
	}
	return q.redirect("/people/"+url.PathEscape(string(user)), "")
}

type personData struct {
	e2ee.UserTrust
	// Warning is what there is to be told about this person.
	Warnings []e2ee.Warning
	Unsigned int
}

func person(q *query) error {
	user, err := userOf(q.Endpoint.Params["userId"])
	if err != nil {
		return err
	}
	trust, err := q.device.User(q.ctx, user)
	if err != nil {
		return err
	}
	data := personData{UserTrust: trust}
	all, err := q.device.Warnings(q.ctx)
	if err != nil {
		return err
	}
	for _, w := range all {
		if w.UserID == user {
			data.Warnings = append(data.Warnings, w)
		}
	}
	for _, d := range trust.Devices {
		if !d.Signed {
			data.Unsigned++
		}
	}
	return q.show("person", "people", string(user), data)
}

// actOnPerson does what a button on a person's page says.
func actOnPerson(q *query) error {
	user, err := userOf(q.Endpoint.Params["userId"])
	if err != nil {
		return err
	}
	form, at := q.Request.PostForm, "/people/"+url.PathEscape(string(user))
	key := strings.Join(strings.Fields(form.Get("master_key")), "")
	switch q.Endpoint.Params["action"] {
	case "accept":
		if err := q.device.Acknowledge(q.ctx, user, id.Ed25519(key)); err != nil {
			return err
		}
		return q.redirect(at, "accepted")
	case "withdraw":
		if err := q.device.WithdrawVerification(q.ctx, user); err != nil {
			return err
		}
		return q.redirect(at, "withdrawn")
	case "fingerprint":
		if err := q.device.VerifyByFingerprint(q.ctx, user, key); err != nil {
			return err
		}
		return q.redirect(at, "verified")
	case "exception":
		return exceptionFor(q, user, at)
	}
	return apierr.NotImplemented("There is no such page.")
}

// exceptionFor makes an exception for a device, or ends it.
func exceptionFor(q *query, user id.UserID, at string) error {
	yes, no, said := true, false, "exception"
	var trusted *bool
	switch q.Request.PostForm.Get("exception") {
	case "trust":
		trusted = &yes
	case "distrust":
		trusted = &no
	case "none":
		said = "no-exception"
	default:
		return apierr.InvalidParam("It is not clear which exception that is.").WithHint("Go back and try again.")
	}
	if err := q.device.SetOverride(q.ctx, user, id.DeviceID(q.Request.PostForm.Get("device_id")), trusted); err != nil {
		return err
	}
	if q.Request.PostForm.Get("from") == "exceptions" {
		at = "/exceptions"
	} else if user == q.session.UserID {
		at = "/devices"
	}
	return q.redirect(at, said)
}
