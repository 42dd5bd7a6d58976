package control

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// The calls of administrators. Who is one is said by the settings, by user ID, and shown by the
// homeserver: an application service that says whom it acts for is not that person.

// Administration is what the calls need of an [e2ee.Overview].
type Administration interface {
	Accounts(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewAccounts, error)
	Account(ctx context.Context, who string, user id.UserID) (*e2ee.OverviewAccount, error)
	Exceptions(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewExceptions, error)
	Warnings(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewWarnings, error)
	Rollout(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewRollout, error)
	EndSessions(ctx context.Context, who string, user id.UserID) (*e2ee.EndedSessions, error)
}

// adminOnly refuses everybody who is no administrator, in the same words whatever the call.
func (c *api) adminOnly(next http.Handler) http.Handler {
	return middleware(func(a *request) error {
		who := a.Identity
		if c.administration == nil || c.administrators == nil || who.Asserted || who.Guest || who.UserID == "" ||
			!slices.Contains(c.administrators(), who.UserID) {
			return apierr.Forbidden("This is for administrators of the proxy only.")
		}
		return nil
	})(next)
}

// page reads which page is asked for.
func page(a *request) (e2ee.Page, error) {
	q := a.Request.URL.Query()
	p, err := e2ee.ParsePage(q.Get("from"), q.Get("limit"))
	if err != nil {
		return p, adminError(err)
	}
	return p, nil
}

// adminError turns the errors of an [Administration] into those for the client.
func adminError(err error) error {
	switch {
	case errors.Is(err, e2ee.ErrPage):
		return apierr.InvalidParam("limit is a number from 1 to 500, and from the next of an earlier page.").Because(err)
	case errors.Is(err, e2ee.ErrNoAccount):
		return apierr.NotFound("The proxy has no such account.").Because(err)
	}
	return err
}

// paged answers a call with a page.
func paged[T any](a *request, read func(ctx context.Context, who string, page e2ee.Page) (*T, error)) (any, error) {
	p, err := page(a)
	if err != nil {
		return nil, err
	}
	out, err := read(a.ctx, a.Identity.UserID.String(), p)
	if err != nil {
		return nil, adminError(err)
	}
	return out, nil
}

// ofAccount answers a call about the account that the path names.
func ofAccount[T any](a *request, do func(ctx context.Context, who string, user id.UserID) (*T, error)) (any, error) {
	user, err := userParam(a.Exchange)
	if err != nil {
		return nil, err
	}
	out, err := do(a.ctx, a.Identity.UserID.String(), user)
	if err != nil {
		return nil, adminError(err)
	}
	return out, nil
}

func (c *api) adminAccounts(a request) (any, error) { return paged(&a, c.administration.Accounts) }
func (c *api) adminAccount(a request) (any, error)  { return ofAccount(&a, c.administration.Account) }
func (c *api) adminExceptions(a request) (any, error) {
	return paged(&a, c.administration.Exceptions)
}
func (c *api) adminWarnings(a request) (any, error) { return paged(&a, c.administration.Warnings) }
func (c *api) adminRollout(a request) (any, error)  { return paged(&a, c.administration.Rollout) }

func (c *api) adminEndSessions(a request) (any, error) {
	var body struct{}
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	return ofAccount(&a, c.administration.EndSessions)
}
