package control

import (
	"context"
	"errors"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// fakeAdministration records who asked for what.
type fakeAdministration struct {
	asked []string
	err   error
}

func (f *fakeAdministration) ask(what, who string) error {
	f.asked = append(f.asked, what+" by "+who)
	return f.err
}

func (f *fakeAdministration) Accounts(_ context.Context, who string, _ e2ee.Page) (*e2ee.OverviewAccounts, error) {
	return &e2ee.OverviewAccounts{}, f.ask("accounts", who)
}

func (f *fakeAdministration) Account(_ context.Context, who string, user id.UserID) (*e2ee.OverviewAccount, error) {
	return &e2ee.OverviewAccount{UserID: user}, f.ask("account "+user.String(), who)
}

func (f *fakeAdministration) Exceptions(_ context.Context, who string, _ e2ee.Page) (*e2ee.OverviewExceptions, error) {
	return &e2ee.OverviewExceptions{}, f.ask("exceptions", who)
}

func (f *fakeAdministration) Warnings(_ context.Context, who string, _ e2ee.Page) (*e2ee.OverviewWarnings, error) {
	return &e2ee.OverviewWarnings{}, f.ask("warnings", who)
}

func (f *fakeAdministration) Rollout(_ context.Context, who string, _ e2ee.Page) (*e2ee.OverviewRollout, error) {
	return &e2ee.OverviewRollout{}, f.ask("rollout", who)
}

func (f *fakeAdministration) EndSessions(_ context.Context, who string, user id.UserID) (*e2ee.EndedSessions, error) {
	return &e2ee.EndedSessions{UserID: user}, f.ask("end "+user.String(), who)
}

// adminCalls returns a request for each call of administrators.
func adminCalls() map[string]clientCall {
	out := make(map[string]clientCall)
	for _, k := range (&api{}).calls() {
		if k.admin {
			c := callOf(k.name, k.method, k.path[1:], "")
			c.params = map[string]string{"userId": bob.String()}
			out[k.name] = c
		}
	}
	return out
}

// Attack: somebody who is no administrator calls what only administrators may: another user, an
// application service that says it acts for one, a guest, a token of nobody; and anybody where
// nobody is set. All get 403, and nothing is looked up.
func TestAdministratorsOnly(t *testing.T) {
	t.Parallel()
	calls := adminCalls()
	if len(calls) != 6 {
		t.Fatalf("there are %d calls", len(calls))
	}
	for name, call := range calls {
		for what, who := range map[string]exchange.Identity{
			"another user":           {UserID: alice, DeviceID: "D"},
			"in capitals":            {UserID: "@ADMIN:hs.example", DeviceID: "D"},
			"an application service": {UserID: admin, DeviceID: "D", Asserted: true},
			"a guest":                {UserID: admin, Guest: true},
			"nobody":                 {},
		} {
			w, c := controlWorld(t, e2ee.ModeProxied)
			w.who = who
			_, err := w.do(call)
			if wantError(t, err, 403, apierr.CodeForbidden); len(w.seen.asked)+len(c.asked) > 0 {
				t.Errorf("%s, %s: asked for %q %q", name, what, w.seen.asked, c.asked)
			}
		}
		handlers := Handlers(exchange.Spools{}, newLimits(t), nil, nil)
		w, _ := controlWorld(t, e2ee.ModeProxied)
		w.handlers, w.who.UserID = handlers, admin
		_, err := w.do(call)
		wantError(t, err, 403, apierr.CodeForbidden)
	}
}

// An administrator's calls are answered with any device, or none, and nothing goes to the
// homeserver; what makes no sense in a request is said.
func TestAdministratorsCalls(t *testing.T) {
	t.Parallel()
	for name, call := range adminCalls() {
		for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeForeign, e2ee.ModeNone} {
			w, _ := controlWorld(t, mode)
			w.who = exchange.Identity{UserID: admin}
			rec, err := w.do(call)
			if err != nil || rec.Code != 200 || rec.Header().Get("Cache-Control") != "no-store" || len(w.seen.asked) != 1 || !strings.HasSuffix(w.seen.asked[0], " by "+admin.String()) {
				t.Errorf("%s: %v, %d, asked %q", name, err, rec.Code, w.seen.asked)
			}
			w.wantNothingUpstream()
		}
	}
	for _, tt := range []struct {
		name, query, user, body string
		err                     error
		status                  int
		code                    string
	}{
		{name: AdminAccounts, query: "limit=0", status: 400, code: apierr.CodeInvalidParam},
		{name: AdminAccounts, query: "limit=501", status: 400, code: apierr.CodeInvalidParam},
		{name: AdminExceptions, query: "from=%21", status: 400, code: apierr.CodeInvalidParam},
		{name: AdminWarnings, query: "from=e30x", status: 400, code: apierr.CodeInvalidParam},
		{name: AdminAccount, user: "bob", status: 400, code: apierr.CodeInvalidParam},
		{name: AdminAccount, err: e2ee.ErrNoAccount, status: 404, code: apierr.CodeNotFound},
		{name: AdminEndSessions, body: `{"devices":["A"]}`, status: 400, code: apierr.CodeBadJSON},
		{name: AdminEndSessions, body: `[]`, status: 400, code: apierr.CodeBadJSON},
	} {
		w, _ := controlWorld(t, e2ee.ModeProxied)
		w.who, w.seen.err = exchange.Identity{UserID: admin}, tt.err
		c := adminCalls()[tt.name]
		c.query, c.body = tt.query, tt.body
		if tt.user != "" {
			c.params = map[string]string{"userId": tt.user}
		}
		_, err := w.do(c)
		if wantError(t, err, tt.status, tt.code); tt.err == nil && len(w.seen.asked) > 0 {
			t.Errorf("%+v: asked %q", tt, w.seen.asked)
		}
	}
	w, _ := controlWorld(t, e2ee.ModeProxied)
	w.who, w.seen.err = exchange.Identity{UserID: admin}, errors.New("the database says "+canary)
	if _, err := w.do(adminCalls()[AdminRollout]); err == nil {
		t.Error("a fault is no error")
	} else if public, ok := errors.AsType[*apierr.Error](err); ok {
		t.Errorf("a fault is shown as %v", public)
	}
}
