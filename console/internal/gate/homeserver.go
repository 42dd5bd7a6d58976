package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

const (
	// callWait is how long the homeserver may take, maxAnswer how much of its answer is read.
	callWait  = 30 * time.Second
	maxAnswer = 64 << 10
	// logoutTries is how often a device that a sign-in made is logged out, until the homeserver
	// says that it is.
	logoutTries = 3

	// displayName is the name of the device that a sign-in makes, for the moment that it lasts, and
	// deviceID its ID: always the same, so that the next sign-in ends one that was left behind.
	displayName = "e2ee-proxy console (signing in)"
	deviceID    = "E2EE_PROXY_CONSOLE"
	leftBehind  = "Try again. If there is a session “" + displayName + "” (" + deviceID + ") in your other clients, log it out there."
)

// Ways are the ways to sign in that the homeserver has.
type Ways struct{ Password, SSO bool }

// Ways asks the homeserver how one can sign in.
func (g *Gate) Ways(ctx context.Context, r *http.Request) (Ways, error) {
	var said struct {
		Flows []struct {
			Type string `json:"type"`
		} `json:"flows"`
	}
	var w Ways
	err := g.call(ctx, r, http.MethodGet, "login", secret.String{}, nil, &said)
	for _, f := range said.Flows {
		w.Password = w.Password || f.Type == "m.login.password"
		w.SSO = w.SSO || f.Type == "m.login.sso"
	}
	return w, err
}

// ByPassword signs a user in. The password is overwritten.
func (g *Gate) ByPassword(ctx context.Context, r *http.Request, user, network string, password secret.Bytes) (id.UserID, error) {
	defer password.Wipe()
	if err := g.mayTry(ctx, network, user); err != nil {
		return "", err
	}
	return g.login(ctx, r, map[string]any{
		"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": user}, "password": string(password.Reveal()),
	})
}

// ByToken returns whose access token it is, and of which device; a token without one is refused.
func (g *Gate) ByToken(ctx context.Context, r *http.Request, network string, token secret.String) (id.UserID, id.DeviceID, error) {
	if err := g.mayTry(ctx, network, ""); err != nil {
		return "", "", err
	}
	if token.IsZero() || strings.ContainsAny(token.Reveal(), " \t\r\n") {
		return "", "", apierr.Forbidden("This is no access token.").WithHint("Copy all of it, and nothing else.")
	}
	user, device, err := g.whose(ctx, r, token)
	if err == nil && device == "" {
		err = ErrNotHeld()
	}
	return user, device, err
}

// ErrNotHeld refuses a token of a device whose keys the proxy does not hold.
func ErrNotHeld() error {
	return apierr.Forbidden("This access token is not of a device whose keys the proxy holds.").
		WithHint("Take the token of a client or program that uses the proxy, or sign in with your password.")
}

// mayTry limits attempts.
func (g *Gate) mayTry(ctx context.Context, network, user string) error {
	now := g.o.Now()
	if err := take(ctx, g.networks, network, now); err != nil {
		return err
	}
	if user == "" {
		return nil
	}
	// @alice:example.org and alice are the same person.
	local, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(user), "@"), ":")
	return take(ctx, g.users, local, now)
}

// login makes a device at the homeserver, finds out whose it is, and logs it out.
func (g *Gate) login(ctx context.Context, r *http.Request, body map[string]any) (id.UserID, error) {
	body["device_id"], body["initial_device_display_name"] = deviceID, displayName
	// A person who leaves meanwhile must not leave a device behind.
	ctx = context.WithoutCancel(ctx)
	var said struct {
		UserID id.UserID `json:"user_id"`
		Token  string    `json:"access_token"`
	}
	if err := g.call(ctx, r, http.MethodPost, "login", secret.String{}, body, &said); err != nil {
		if known, ok := errors.AsType[*apierr.Error](err); ok && known.Status >= http.StatusInternalServerError { // it may have made a device all the same
			known.Hint = leftBehind
		}
		return "", err
	}
	token := secret.NewString(said.Token)
	user, _, err := g.whose(ctx, r, token)
	if failed := g.logout(ctx, r, token); failed != nil && err == nil {
		err = apierr.NewError(http.StatusBadGateway, apierr.CodeUnknown, "You were not signed in: the homeserver did not end the session that it made for that.").
			WithHint(leftBehind).Because(failed)
	}
	if err != nil {
		return "", err
	}
	if said.UserID != user {
		return "", apierr.Unreachable(errNobody)
	}
	return user, nil
}

func (g *Gate) logout(ctx context.Context, r *http.Request, token secret.String) (err error) {
	for range logoutTries {
		if err = g.call(ctx, r, http.MethodPost, "logout", token, map[string]any{}, &struct{}{}); err == nil {
			return nil
		}
	}
	return err
}

// whose asks whose a token is, and of which device. Guests have nothing here.
func (g *Gate) whose(ctx context.Context, r *http.Request, token secret.String) (id.UserID, id.DeviceID, error) {
	var said struct {
		UserID   id.UserID   `json:"user_id"`
		DeviceID id.DeviceID `json:"device_id"`
		Guest    bool        `json:"is_guest"`
	}
	if err := g.call(ctx, r, http.MethodGet, "account/whoami", token, nil, &said); err != nil {
		return "", "", err
	}
	switch {
	case said.Guest:
		return "", "", apierr.Forbidden("Guests have no console.").WithHint("Sign in with an account.")
	case said.UserID == "" || said.UserID[0] != '@':
		return "", "", apierr.Unreachable(errNobody)
	}
	return said.UserID, said.DeviceID, nil
}

// call asks the homeserver something, in the name of the client r.
func (g *Gate) call(ctx context.Context, r *http.Request, method, path string, token secret.String, body map[string]any, into any) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return fmt.Errorf("write %s down", path) //nolint:err113 // its cause could quote a password
		}
		defer clear(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.o.Homeserver.JoinPath("/_matrix/client/v3/", path).String(), bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("ask the homeserver for %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if !token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	// The homeserver limits attempts by address too.
	if from := r.Header.Get("X-Forwarded-For"); from != "" {
		req.Header.Set("X-Forwarded-For", from)
	}
	resp, err := g.o.Client.Do(req)
	if err != nil {
		return apierr.Unreachable(fmt.Errorf("%s: %w", path, err))
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	defer clear(answer)
	if err != nil {
		return apierr.Unreachable(fmt.Errorf("%s: %w", path, err))
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, answer)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return apierr.NotHomeserver(fmt.Errorf("%s was answered with something else than JSON", path)) //nolint:err113 // its cause could quote a token
	}
	return nil
}

// errNotAccepted means that the homeserver does not take what was shown to it.
var errNotAccepted = errors.New("the homeserver does not accept it")

// refusal says for a person what the homeserver refuses.
func refusal(resp *http.Response, answer []byte) error {
	var said struct {
		Code  string `json:"errcode"`
		After int64  `json:"retry_after_ms"`
	}
	if json.Unmarshal(answer, &said) != nil || said.Code == "" {
		return apierr.Unreachable(fmt.Errorf("it answered %d", resp.StatusCode)) //nolint:err113 // it goes to the log
	}
	switch said.Code {
	case apierr.CodeForbidden:
		return apierr.Forbidden("The homeserver does not accept this user name and password.").WithHint("Look at both and try again.").Because(errNotAccepted)
	case apierr.CodeUnknownToken, apierr.CodeMissingToken:
		return apierr.Forbidden("The homeserver does not know this, or not any more.").WithHint("Try again with a new one.")
	case apierr.CodeLimitExceeded:
		wait := time.Duration(max(said.After, 1000)) * time.Millisecond
		e := apierr.HomeserverLimit(wait)
		e.Text, e.Hint = "The homeserver has seen too many attempts to sign in.", fmt.Sprintf("Wait %s, then try again.", seconds(wait))
		return e
	case apierr.CodeUserLocked, "M_USER_SUSPENDED", "M_USER_DEACTIVATED":
		return apierr.Forbidden("This account is locked or was closed.").WithHint("Ask the administrator of the homeserver.")
	}
	return apierr.Unreachable(fmt.Errorf("it answered %d", resp.StatusCode)) //nolint:err113 // it goes to the log
}
