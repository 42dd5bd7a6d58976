package interceptors

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// Login: POST login of every type, POST register where it returns a token, POST refresh.
// They pass byte for byte upstream. The engine learns at once of the device that a login
// made or took over, with the password where one was used: it serves the user-interactive
// authentication of the first bootstrap and is not stored. Here it is overwritten when the
// request ends, with the body that it came in. GET login and the redirects of SSO are not
// handled here; they pass untouched.
//
// In an answer, well_known points at the proxy's public URL when one is configured. An
// answer is never held back: its device exists, and a client that saw an error would log in
// again and make another.

// sessions holds the handlers of everything that begins or ends a session.
type sessions struct {
	public  *url.URL
	refresh *refreshTokens
	// endPages ends what else a user has begun, see Options.EndConsoleSessions.
	endPages func(ctx context.Context, user id.UserID) error
}

// login handles [Login].
func (s *sessions) login(x *Exchange) error {
	raw, err := x.ReadObject()
	defer func() { clear(raw) }()
	if err != nil {
		return err
	}
	body, err := exchange.ParseObject(raw)
	if err != nil {
		return err
	}
	var password secret.Bytes
	if body.TextOrEmpty("type") == "m.login.password" {
		password = body.Secret("password")
	}
	return s.forwardLogin(x, raw, password, false)
}

// register handles [Register]. Most of its calls are steps of user-interactive
// authentication, which pass; only the last returns a token.
func (s *sessions) register(x *Exchange) error {
	raw, err := x.ReadOptionalObject()
	defer func() { clear(raw) }()
	if err != nil {
		return err
	}
	var body strictjson.Object
	if !exchange.IsBlank(raw) {
		if body, err = exchange.ParseObject(raw); err != nil {
			return err
		}
	}
	guest := x.Request.URL.Query().Get("kind") == "guest"
	return s.forwardLogin(x, raw, body.Secret("password"), guest)
}

// forwardLogin sends a login upstream and records its device. Afterwards nobody reads raw any
// more.
func (s *sessions) forwardLogin(x *Exchange, raw []byte, password secret.Bytes, guest bool) error {
	defer password.Wipe()
	body := putBackOnce(x, raw)
	defer body.Close() //nolint:errcheck // it never fails
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return x.Upstream.Relay(x, resp)
	}
	got := exchange.AnswerObject(resp)
	who := Identity{
		UserID:   id.UserID(got.TextOrEmpty("user_id")),
		DeviceID: id.DeviceID(got.TextOrEmpty("device_id")),
		Guest:    guest,
		Token:    secret.NewString(got.TextOrEmpty("access_token")),
	}
	if exchange.ValidUser(got.TextOrEmpty("user_id")) && who.DeviceID != "" && !who.Token.IsZero() {
		s.refresh.remember(secret.NewString(got.TextOrEmpty("refresh_token")), who)
		s.loggedIn(x, who, password)
	}
	if err := s.setWellKnown(resp); err != nil {
		return err
	}
	return x.Upstream.Relay(x, resp)
}

// loggedIn records the device of a login. If that fails, its first request does it.
func (s *sessions) loggedIn(x *Exchange, who Identity, password secret.Bytes) {
	if who.Guest {
		return
	}
	ctx := context.WithoutCancel(x.Request.Context())
	if err := x.Devices.LoggedIn(ctx, who, password); err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("Failed to set up the device of a login")
	}
}

// setWellKnown sets the public URL in well_known of a login's answer.
func (s *sessions) setWellKnown(resp *http.Response) error {
	if s.public == nil {
		return nil
	}
	raw := exchange.Peek(resp)
	if raw == nil || exchange.AnswerObject(resp).Object("well_known") == nil {
		return nil
	}
	changed, err := editMember(raw, "well_known", func(old []byte) ([]byte, error) {
		return discovery(old, s.public)
	})
	if err != nil {
		return err
	}
	exchange.ReplaceBody(resp, changed)
	return nil
}
