package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/console/internal/gate"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/internal/secret"
)

//go:embed templates/*.html static/*
var assets embed.FS

// Idle is how long a session lasts without being used.
const Idle = gate.Idle

// Held is a device of a user whose keys the proxy holds.
type Held struct {
	DeviceID id.DeviceID
	// Name is how the homeserver shows it; may be empty.
	Name string
}

// Accounts is what the console needs of the engine.
type Accounts interface {
	// Held returns the devices for which a user can act, the one used last first.
	Held(ctx context.Context, user id.UserID) ([]Held, error)
	// Device returns one of them: [e2ee.ErrUnknownDevice] when it is none of them any more.
	Device(ctx context.Context, user id.UserID, device id.DeviceID) (Device, error)
}

// Device is a device for which its owner acts: an [e2ee.Device], whose methods these are.
type Device interface {
	Status(ctx context.Context) (e2ee.Status, error)
	Bootstrap(ctx context.Context, auth e2ee.UserAuth) (secret.String, error)
	Recover(ctx context.Context, with e2ee.Recovery) error
	RestoreHistory(ctx context.Context) error
	ResetOnce(ctx context.Context, request string, auth e2ee.UserAuth) (secret.String, error)
	ResetBegun(ctx context.Context, request string) (bool, error)
	RecoveryKey(ctx context.Context) (secret.String, error)
	DeleteRecoveryKey(ctx context.Context) error
	User(ctx context.Context, user id.UserID) (e2ee.UserTrust, error)
	Acknowledge(ctx context.Context, user id.UserID, masterKey id.Ed25519) error
	WithdrawVerification(ctx context.Context, user id.UserID) error
	SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, trusted *bool) error
	Warnings(ctx context.Context) ([]e2ee.Warning, error)
	DismissWarning(ctx context.Context, warning string) error

	Verifications(ctx context.Context) ([]e2ee.Verification, error)
	Verification(ctx context.Context, flow string) (e2ee.Verification, error)
	RequestVerification(ctx context.Context, user id.UserID, with e2ee.VerificationPartner) (e2ee.Verification, error)
	AcceptVerification(ctx context.Context, flow string) (e2ee.Verification, error)
	StartEmoji(ctx context.Context, flow string) (e2ee.Verification, error)
	ConfirmEmoji(ctx context.Context, flow string, match bool) (e2ee.Verification, error)
	ScanQR(ctx context.Context, flow string, payload []byte) (e2ee.Verification, error)
	ConfirmScanned(ctx context.Context, flow string, yes bool) (e2ee.Verification, error)
	CancelVerification(ctx context.Context, flow string) error
	VerifyByFingerprint(ctx context.Context, user id.UserID, masterKey string) error
	WatchVerifications(ctx context.Context) <-chan struct{}

	// People returns up to limit users whose identity is known, those after one in the order of
	// their IDs.
	People(ctx context.Context, after id.UserID, limit int) ([]e2ee.Person, error)
}

// Administration is what administrators see.
type Administration interface {
	Accounts(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewAccounts, error)
	Account(ctx context.Context, who string, user id.UserID) (*e2ee.OverviewAccount, error)
	Exceptions(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewExceptions, error)
	Warnings(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewWarnings, error)
	Rollout(ctx context.Context, who string, page e2ee.Page) (*e2ee.OverviewRollout, error)
	EndSessions(ctx context.Context, who string, user id.UserID) (*e2ee.EndedSessions, error)
}

// Options is what a Console needs.
type Options struct {
	Sessions gate.Store
	Accounts Accounts
	// Administration may be nil; Administrators returns who may see it now.
	Administration Administration
	Administrators func() []id.UserID
	// Homeserver and Client are how the homeserver is asked who somebody is; Client follows no
	// redirects.
	Homeserver *url.URL
	Client     *http.Client
	// URL is where browsers find the console's origin; nil: where they say that they are.
	URL *url.URL
	// SingleSignOn is where browsers find the homeserver's single sign-on; nil: on the console's
	// origin.
	SingleSignOn *url.URL
	Now          func() time.Time
	// Redis is where replicas count attempts to sign in together; nil is none.
	Redis *rediscache.Cache
	// Limits are those of every way to control a device.
	Limits *interceptors.Limits
}

// Console has the pages.
type Console struct {
	o         Options
	gate      *gate.Gate
	pages     map[string]page
	templates map[string]*template.Template
	static    map[string][]byte
	reading   chan struct{} // who reads a picture

	// resetting are users whose identity is being reset.
	mu        sync.Mutex
	resetting map[id.UserID]bool
}

// begin notes that a user's identity is being reset; false if it is already. end must follow.
func (c *Console) begin(user id.UserID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resetting[user] {
		return false
	}
	c.resetting[user] = true
	return true
}

func (c *Console) end(user id.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.resetting, user)
}

// New makes a Console.
func New(o Options) (*Console, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Console{o: o, resetting: make(map[id.UserID]bool), reading: make(chan struct{}, 1)}
	if o.Limits == nil {
		return nil, errors.New("make the console: it has no limits")
	}
	var err error
	if c.gate, err = gate.New(gate.Options{Store: o.Sessions, Now: o.Now, Homeserver: o.Homeserver, Client: o.Client, URL: o.URL, Redis: o.Redis}); err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	c.pages = c.allPages()
	return c, nil
}

// page is what is done for one method and pattern.
type page struct {
	// open pages need no session, admin ones an administrator, others a session; of those the ones
	// with device need a device to act for.
	open, admin, device bool
	do                  func(q *query) error
}

// query is one request for a page.
type query struct {
	*interceptors.Exchange
	ctx     context.Context
	c       *Console
	session *gate.Session
	network string
	held    []Held
	// device is the one for which the person acts; nil where the page needs none.
	device Device
	acting id.DeviceID
}

type begunKey struct{}

// begun is what Begin found.
type begun struct {
	session *gate.Session
	network string
}

// Begin finds the session of a request; see [proxy.Pages].
func (c *Console) Begin(r *http.Request, network string) (*http.Request, id.UserID, error) {
	s, err := c.gate.Find(r)
	if err == nil && s.BegunBy != "" { // it is worth what the device is
		var held bool
		if held, err = c.holds(r.Context(), s.UserID, s.BegunBy); err == nil && !held {
			s = &gate.Session{Ended: true}
		}
	}
	if err != nil {
		return r, "", fmt.Errorf("find a session of the console: %w", err)
	}
	return r.WithContext(context.WithValue(r.Context(), begunKey{}, begun{s, network})), s.UserID, nil
}

// Handler answers requests for pages.
func (c *Console) Handler(x *interceptors.Exchange) error {
	head(x.Writer.Header())
	q := &query{Exchange: x, ctx: x.Request.Context(), c: c, session: &gate.Session{}}
	if found, ok := q.ctx.Value(begunKey{}).(begun); ok {
		q.session, q.network = found.session, found.network
	}
	p, ok := c.pages[x.Request.Method+" "+strings.TrimPrefix(x.Endpoint.Pattern, gate.Path)]
	if !ok {
		return fmt.Errorf("the console has no page for %s %s", x.Request.Method, x.Endpoint.Pattern)
	}
	if err := q.enter(p); err != nil {
		return q.failed(err)
	}
	return nil
}

// enter checks who asks, and does what the page does.
func (q *query) enter(p page) error {
	if !p.open && !q.session.Known() {
		said := ""
		if q.session.Ended {
			said = "ended"
			if q.Request.Method == http.MethodPost {
				said = "ended-undone"
			}
		}
		return q.redirect("/sign-in", said)
	}
	if q.Request.Method == http.MethodPost {
		if err := q.readForm(); err != nil {
			return err
		}
	}
	if p.admin && !q.isAdmin() {
		return apierr.Forbidden("This page is for administrators of the proxy.")
	}
	if p.device {
		if err := q.act(); err != nil {
			return err
		}
	}
	return p.do(q)
}

// readForm reads a form, and refuses one that no page of ours sent.
func (q *query) readForm() error {
	var err error
	if strings.HasPrefix(q.Request.Header.Get("Content-Type"), "multipart/form-data") {
		err = q.Request.ParseMultipartForm(maxPicture)
		if q.Request.MultipartForm != nil {
			q.Request.PostForm = q.Request.MultipartForm.Value
		}
	} else {
		err = q.Request.ParseForm()
	}
	if err != nil {
		return apierr.NewError(http.StatusBadRequest, apierr.CodeUnknown, "What was sent could not be read.").WithHint("Go back and try again.").Because(err)
	}
	return q.c.gate.CheckForm(q.Request, q.session)
}

// errNoDevice means that there is no device for which the person could act.
var errNoDevice = errors.New("the proxy holds no keys for a device of this user")

// act finds the device for which the person acts: the one that was chosen, or the one used last.
func (q *query) act() error {
	var err error
	if q.held, err = q.c.o.Accounts.Held(q.ctx, q.session.UserID); err != nil {
		return err
	}
	if by := q.session.BegunBy; by != "" {
		q.held = slices.DeleteFunc(slices.Clone(q.held), func(h Held) bool { return h.DeviceID != by })
	}
	if len(q.held) == 0 {
		return errNoDevice
	}
	q.acting = q.held[0].DeviceID
	if slices.ContainsFunc(q.held, func(h Held) bool { return h.DeviceID == q.session.DeviceID }) {
		q.acting = q.session.DeviceID
	}
	q.device, err = q.c.o.Accounts.Device(q.ctx, q.session.UserID, q.acting)
	if errors.Is(err, e2ee.ErrSessionEnded) && len(q.held) > 1 {
		// It was logged out meanwhile: the next one does.
		q.held = slices.DeleteFunc(slices.Clone(q.held), func(h Held) bool { return h.DeviceID == q.acting })
		q.acting = q.held[0].DeviceID
		q.device, err = q.c.o.Accounts.Device(q.ctx, q.session.UserID, q.acting)
	}
	if err == nil && q.device == nil || errors.Is(err, e2ee.ErrSessionEnded) {
		err = errNoDevice
	}
	return err
}

func (q *query) isAdmin() bool {
	return q.c.o.Administration != nil && q.c.o.Administrators != nil && q.session.Known() &&
		slices.Contains(q.c.o.Administrators(), q.session.UserID)
}

// head sets what holds for every page. Forms may lead to nowhere else, and nobody may frame it.
func head(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "+
		"form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin") // browsers send no Origin with forms otherwise
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()")
	h.Set("Cache-Control", "no-store")
}

// redirect sends the browser to another page, which says what was done.
func (q *query) redirect(path, done string) error {
	if done != "" {
		path += "?" + url.Values{"done": {done}}.Encode()
	}
	q.Writer.Header().Set("Location", gate.Path+path)
	q.Writer.WriteHeader(http.StatusSeeOther)
	return nil
}

// write answers with a page.
func (q *query) write(status int, v *view) error {
	var out bytes.Buffer
	if err := q.c.templates[v.Template].ExecuteTemplate(&out, "layout", v); err != nil {
		return fmt.Errorf("render %s: %w", v.Template, err)
	}
	h := q.Writer.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(out.Len()))
	q.Writer.WriteHeader(status)
	_, err := q.Writer.Write(out.Bytes())
	clear(out.Bytes()) // it may have a recovery key
	if err != nil {
		return fmt.Errorf("write a page: %w", err)
	}
	return nil
}

// failed answers with why something was not done. Errors that are not for people go on, and come
// back with what to say in Refuse.
func (q *query) failed(err error) error {
	if errors.Is(err, errNoDevice) {
		return q.noDevice()
	}
	said, ok := words(err)
	if !ok {
		return err
	}
	zerolog.Ctx(q.ctx).Debug().Err(err).Msg("A page was refused")
	return q.refuse(said)
}

// Refuse answers with a page that says why; see [proxy.Pages].
func (c *Console) Refuse(w http.ResponseWriter, r *http.Request, why *apierr.Error) {
	head(w.Header())
	q := &query{Exchange: &interceptors.Exchange{Writer: w, Request: r}, ctx: r.Context(), c: c, session: &gate.Session{}}
	if found, ok := q.ctx.Value(begunKey{}).(begun); ok {
		q.session = found.session
	}
	if err := q.refuse(why); err != nil {
		zerolog.Ctx(r.Context()).Debug().Err(err).Msg("A page was not shown")
	}
}

func (q *query) refuse(why *apierr.Error) error {
	status := why.Status
	if status == http.StatusUnauthorized { // a browser would expect that it says how to log in
		status = http.StatusForbidden
	}
	maps.Copy(q.Writer.Header(), why.Header)
	v := q.view("refused", "Not done")
	v.Data = refusal{why.Text, why.Hint, q.back()}
	return q.write(status, v)
}

// refusal says why something was not done.
type refusal struct{ Text, Hint, Back string }

// back returns the page from which a form came, as far as it is one of ours.
func (q *query) back() string {
	from, err := url.Parse(q.Request.Referer())
	if err != nil || !strings.EqualFold(from.Host, q.Request.Host) || !strings.HasPrefix(from.Path, gate.Path) {
		return gate.Path
	}
	return from.Path
}
