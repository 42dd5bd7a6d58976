package console

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/console/internal/gate"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

// signInData is what a person is asked at the door.
type signInData struct {
	gate.Ways
	// Silent says that the homeserver did not say how one can sign in.
	Silent bool
	// User is what was typed in before, Refused and Hint why that was not enough.
	User, Refused, Hint string
}

func signInPage(q *query) error {
	if q.session.Known() {
		return q.redirect("", "")
	}
	return q.signIn(http.StatusOK, signInData{})
}

func (q *query) signIn(status int, data signInData) error {
	var err error
	if data.Ways, err = q.c.gate.Ways(q.ctx, q.Request); err != nil {
		data.Ways, data.Silent = gate.Ways{Password: true}, true
	}
	v := q.view("signin", "Sign in")
	v.Data = data
	return q.write(status, v)
}

// refused shows the door again, with why it stayed shut.
func (q *query) refused(user string, err error) error {
	said, ok := words(err)
	if !ok {
		return err
	}
	maps.Copy(q.Writer.Header(), said.Header)
	return q.signIn(said.Status, signInData{User: user, Refused: said.Text, Hint: said.Hint})
}

func signInByPassword(q *query) error {
	form := q.Request.PostForm
	user, password := strings.TrimSpace(form.Get("user")), secret.Bytes(form.Get("password"))
	form.Del("password")
	if user == "" || len(password) == 0 {
		return q.refused(user, apierr.Forbidden("Your user name or your password is missing.").WithHint("Enter both."))
	}
	who, err := q.c.gate.ByPassword(q.ctx, q.Request, user, q.network, password)
	if err != nil {
		return q.refused(user, err)
	}
	return q.letIn(who, "")
}

func signInByToken(q *query) error {
	token := secret.NewString(strings.TrimSpace(q.Request.PostForm.Get("access_token")))
	q.Request.PostForm.Del("access_token")
	who, by, err := q.c.gate.ByToken(q.ctx, q.Request, q.network, token)
	if err != nil {
		return q.refused("", err)
	}
	// A token opens here what it opens in the control API, and no more: its own device.
	switch held, err := q.c.holds(q.ctx, who, by); {
	case err != nil:
		return err
	case !held:
		return q.refused("", gate.ErrNotHeld())
	}
	return q.letIn(who, by)
}

// holds reports whether the proxy holds the keys of a user's device.
func (c *Console) holds(ctx context.Context, user id.UserID, device id.DeviceID) (bool, error) {
	all, err := c.o.Accounts.Held(ctx, user)
	return slices.ContainsFunc(all, func(h Held) bool { return h.DeviceID == device }), err
}

// letIn begins the session of whoever has proved who they are.
func (q *query) letIn(who id.UserID, by id.DeviceID) error {
	if err := q.c.gate.Begin(q.Writer, q.Request, who, by); err != nil {
		return err
	}
	return q.redirect("", "")
}

func beginSSO(q *query) error {
	q.Writer.Header().Set("Location", q.c.gate.BeginSSO(q.Writer, q.Request, q.c.o.SingleSignOn))
	q.Writer.WriteHeader(http.StatusSeeOther)
	return nil
}

// endSSO answers with a page instead of a redirect: the browser comes from another website, and
// does not show the session's cookie before a page of ours leads on.
func endSSO(q *query) error {
	who, err := q.c.gate.EndSSO(q.ctx, q.Writer, q.Request, q.network)
	if err != nil {
		return q.refused("", err)
	}
	if err := q.c.gate.Begin(q.Writer, q.Request, who, ""); err != nil {
		return err
	}
	v := q.view("signedin", "You are signed in")
	v.Data = string(who)
	return q.write(http.StatusOK, v)
}

func signOut(q *query) error {
	everywhere := q.Request.PostForm.Get("everywhere") != ""
	if err := q.c.gate.End(q.Writer, q.Request, q.session, everywhere); err != nil {
		return err
	}
	q.session = &gate.Session{}
	if everywhere {
		return q.redirect("/sign-in", "everywhere")
	}
	return q.redirect("/sign-in", "signed-out")
}
