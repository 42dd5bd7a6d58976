package gate

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/attempts"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/store"
)

const (
	// Path is where the console is; cookies go nowhere else.
	Path = "/_e2ee_proxy/console"
	// Idle is how long a session lasts without being used, lasts how long in any case.
	Idle  = 30 * time.Minute
	lasts = 12 * time.Hour
	// seenEvery is how often it is stored that a session is used.
	seenEvery = time.Minute

	tokenSize = 32

	// FormField is the field of a form with the word that shows whose page it was on.
	FormField = "form_token"
)

// Store keeps sessions.
type Store interface {
	AddConsoleSession(ctx context.Context, token []byte, s store.ConsoleSession) error
	ConsoleSession(ctx context.Context, token []byte) (store.ConsoleSession, error)
	SetConsoleSession(ctx context.Context, token []byte, s store.ConsoleSession) error
	EndConsoleSession(ctx context.Context, token []byte) error
	EndConsoleSessionsOf(ctx context.Context, user id.UserID) error
	Hash(purpose string, data []byte) [32]byte
}

// Options is what a Gate needs.
type Options struct {
	Store Store
	Now   func() time.Time
	// Homeserver is the base URL of the Client-Server API, Client reaches it and follows no
	// redirects.
	Homeserver *url.URL
	Client     *http.Client
	// URL is where browsers find the console's origin; nil: where they say that they are.
	URL *url.URL
	// Redis is where replicas count attempts together; nil is none.
	Redis *rediscache.Cache
}

// Gate lets people in.
type Gate struct {
	o        Options
	networks *attempts.Limit
	users    *attempts.Limit
}

// New makes a Gate.
func New(o Options) (*Gate, error) {
	networks, err1 := attempts.New(o.Redis, "console_networks", networkBurst, networkInterval)
	users, err2 := attempts.New(o.Redis, "console_users", userBurst, userInterval)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &Gate{o, networks, users}, nil
}

// Session is a person who has signed in. Its zero value is nobody.
type Session struct {
	store.ConsoleSession
	token []byte
	// Ended reports whether the browser had one that has ended.
	Ended bool
}

// Known reports whether somebody has signed in.
func (s *Session) Known() bool { return s != nil && s.UserID != "" }

// Find returns the session of a request; nobody's is no error.
func (g *Gate) Find(r *http.Request) (*Session, error) {
	token := g.cookie(r, sessionCookie)
	if token == nil {
		return &Session{}, nil
	}
	s, err := g.o.Store.ConsoleSession(r.Context(), token)
	now := g.o.Now()
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrSealed):
		return &Session{Ended: true}, nil
	case err != nil:
		return nil, err
	case !now.Before(s.EndsAt), now.Sub(s.SeenAt) >= Idle:
		return &Session{Ended: true}, nil
	}
	found := &Session{ConsoleSession: s, token: token}
	// What a script asks for by itself is no use by a person.
	if now.Sub(s.SeenAt) < seenEvery || r.Header.Get("Sec-Fetch-Dest") == "empty" {
		return found, nil
	}
	found.SeenAt = now
	if err := g.o.Store.SetConsoleSession(r.Context(), token, found.ConsoleSession); err != nil {
		return nil, err
	}
	return found, nil
}

// Begin begins a session of a user, which replaces what the browser had. by is the device whose token
// it was, if it was one.
func (g *Gate) Begin(w http.ResponseWriter, r *http.Request, user id.UserID, by id.DeviceID) error {
	if old := g.cookie(r, sessionCookie); old != nil {
		if err := g.o.Store.EndConsoleSession(r.Context(), old); err != nil {
			return err
		}
	}
	token, now := newToken(), g.o.Now()
	s := store.ConsoleSession{UserID: user, BegunBy: by, SeenAt: now, EndsAt: now.Add(lasts)}
	if err := g.o.Store.AddConsoleSession(r.Context(), token, s); err != nil {
		return err
	}
	g.setCookie(w, r, sessionCookie, token, http.SameSiteStrictMode, lasts)
	g.dropCookie(w, r, formCookie)
	return nil
}

// Choose stores for which device the person acts.
func (g *Gate) Choose(ctx context.Context, s *Session, device id.DeviceID) error {
	s.DeviceID = device
	return g.o.Store.SetConsoleSession(ctx, s.token, s.ConsoleSession)
}

// End ends a session, or all of its user.
func (g *Gate) End(w http.ResponseWriter, r *http.Request, s *Session, everywhere bool) error {
	end := func() error { return g.o.Store.EndConsoleSession(r.Context(), s.token) }
	if everywhere {
		end = func() error { return g.o.Store.EndConsoleSessionsOf(r.Context(), s.UserID) }
	}
	if err := end(); err != nil {
		return err
	}
	g.dropCookie(w, r, sessionCookie)
	return nil
}

// Lives reports whether a session has not ended meanwhile, without using it.
func (g *Gate) Lives(ctx context.Context, s *Session) (bool, error) {
	now, err := g.o.Store.ConsoleSession(ctx, s.token)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrSealed) {
		return false, nil
	}
	at := g.o.Now()
	return err == nil && at.Before(now.EndsAt) && at.Sub(now.SeenAt) < Idle, err
}

// FormToken returns the word that forms for this browser must have. Before there is a session it
// gives the browser a cookie to which the word belongs.
func (g *Gate) FormToken(w http.ResponseWriter, r *http.Request, s *Session) string {
	if s.Known() {
		return g.wordOf("console form of a session", s.token)
	}
	token := g.cookie(r, formCookie)
	if token == nil {
		token = newToken()
		g.setCookie(w, r, formCookie, token, http.SameSiteStrictMode, lasts)
	}
	return g.wordOf("console form before a session", token)
}

// CheckForm refuses a form that no page of ours can have sent. Its fields have been parsed.
func (g *Gate) CheckForm(r *http.Request, s *Session) error {
	if err := g.checkOrigin(r); err != nil {
		return err
	}
	want := ""
	if s.Known() {
		want = g.wordOf("console form of a session", s.token)
	} else if token := g.cookie(r, formCookie); token != nil {
		want = g.wordOf("console form before a session", token)
	}
	if got := r.PostForm.Get(FormField); want == "" || !hmac.Equal([]byte(got), []byte(want)) {
		return apierr.Forbidden("This page was too old, or cookies are switched off, so nothing was done.").
			WithHint("Go back, look at the page again, and repeat what you did.")
	}
	return nil
}

// checkOrigin refuses what the browser says that another website has sent.
func (g *Gate) checkOrigin(r *http.Request) error {
	refused := apierr.Forbidden("Another website has sent this, so nothing was done.").
		WithHint("Open the console yourself, and do there what you want to do.")
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return refused
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, g.Origin(r).Host) && !strings.EqualFold(u.Host, r.Host) {
		return refused
	}
	return nil
}

// Origin returns where the browser finds the console, without a path: where the settings say, but
// for a browser on this machine that has come straight here.
func (g *Gate) Origin(r *http.Request) *url.URL {
	if g.o.URL != nil && !IsHere(r.Host) {
		return &url.URL{Scheme: g.o.URL.Scheme, Host: g.o.URL.Host}
	}
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" { // it is there if whoever said it is trusted
		scheme = "https"
	}
	host := r.Host
	if said := r.Header.Get("X-Forwarded-Host"); said != "" && !strings.ContainsAny(said, ", /") { // as above
		host = said
	}
	return &url.URL{Scheme: scheme, Host: host}
}

// IsHere reports whether a host is this machine, which nobody is in between of.
func IsHere(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func (g *Gate) secure(r *http.Request) bool { return g.Origin(r).Scheme == "https" }

func (g *Gate) wordOf(purpose string, token []byte) string {
	sum := g.o.Store.Hash(purpose, token)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// The cookies by name. Where TLS is used they have a prefix, with which browsers take them from
// nobody else.
const (
	sessionCookie = "e2ee-proxy-console"
	formCookie    = "e2ee-proxy-console-form"
	ssoCookie     = "e2ee-proxy-console-sso"
	securePrefix  = "__Secure-"
)

func (g *Gate) cookieName(r *http.Request, name string) string {
	if g.secure(r) {
		return securePrefix + name
	}
	return name
}

// cookie returns the token in a cookie; nil if there is none.
func (g *Gate) cookie(r *http.Request, name string) []byte {
	c, err := r.Cookie(g.cookieName(r, name))
	if err != nil {
		return nil
	}
	token, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(token) != tokenSize {
		return nil
	}
	return token
}

func (g *Gate) setCookie(w http.ResponseWriter, r *http.Request, name string, token []byte, site http.SameSite, age time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: g.cookieName(r, name), Value: base64.RawURLEncoding.EncodeToString(token), Path: Path,
		MaxAge: int(age.Seconds()), Secure: g.secure(r), HttpOnly: true, SameSite: site,
	})
}

func (g *Gate) dropCookie(w http.ResponseWriter, r *http.Request, name string) {
	http.SetCookie(w, &http.Cookie{
		Name: g.cookieName(r, name), Path: Path, MaxAge: -1, Secure: g.secure(r), HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

func newToken() []byte {
	token := make([]byte, tokenSize)
	_, _ = rand.Read(token) // crypto/rand never returns an error
	return token
}

var errNobody = fmt.Errorf("the homeserver did not say who that is")
