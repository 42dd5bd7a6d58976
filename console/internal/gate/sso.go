package gate

import (
	"context"
	"crypto/hmac"
	"errors"
	"net/http"
	"net/url"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
)

// Single sign-on is the homeserver's own (m.login.sso), also where it uses OAuth: the browser goes
// there, and comes back with a word in the URL that is worth one login and short-lived. It counts
// only in the browser that was sent there: otherwise somebody could sign others in as themselves,
// and have them type their recovery key there.

// ssoLasts is how long a person may take at the homeserver.
const ssoLasts = 15 * time.Minute

// BeginSSO returns where the browser has to go.
func (g *Gate) BeginSSO(w http.ResponseWriter, r *http.Request, homeserver *url.URL) string {
	token := newToken()
	// It comes back from another website, with which a strict cookie would stay away.
	g.setCookie(w, r, ssoCookie, token, http.SameSiteLaxMode, ssoLasts)
	back := g.Origin(r).JoinPath(Path, "/sign-in/sso/return")
	back.RawQuery = url.Values{"state": {g.wordOf("console single sign-on", token)}}.Encode()
	to := &url.URL{Path: "/_matrix/client/v3/login/sso/redirect"}
	if homeserver != nil {
		to = homeserver.JoinPath(to.Path)
	}
	to.RawQuery = url.Values{"redirectUrl": {back.String()}}.Encode()
	return to.String()
}

// EndSSO signs in who comes back.
func (g *Gate) EndSSO(ctx context.Context, w http.ResponseWriter, r *http.Request, network string) (id.UserID, error) {
	token, q := g.cookie(r, ssoCookie), r.URL.Query()
	g.dropCookie(w, r, ssoCookie)
	if token == nil || !hmac.Equal([]byte(q.Get("state")), []byte(g.wordOf("console single sign-on", token))) {
		return "", apierr.Forbidden("This sign-in was not begun in this browser, or too long ago.").WithHint("Begin again.")
	}
	if err := g.mayTry(ctx, network, ""); err != nil {
		return "", err
	}
	word := q.Get("loginToken")
	if word == "" {
		return "", apierr.Forbidden("The homeserver did not sign you in.").WithHint("Begin again.")
	}
	who, err := g.login(ctx, r, map[string]any{"type": "m.login.token", "token": word})
	if errors.Is(err, errNotAccepted) {
		return "", apierr.Forbidden("This sign-in was used before, or took too long.").WithHint("Begin again.").Because(err)
	}
	return who, err
}
