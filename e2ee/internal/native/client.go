package native

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// maxAge is how old what is known of a user may be. Such a client's syncs are not read, so
// nobody tells of changes.
const maxAge = time.Minute

// Client is a client with keys of its own, for one request of it.
type Client struct {
	*core.Account
	shared  *Shared
	counted *rollout.Account
	host    Host

	device id.DeviceID // empty for a token that has none
	query  wire.KeyQuery
}

// Host is what a Client needs of its account.
type Host interface {
	// Unsettled returns the users whose identity change may not be accepted.
	Unsettled(ctx context.Context) (map[id.UserID]bool, error)
}

// NewClient returns the client of a token. device is the token's own.
func NewClient(acct *core.Account, shared *Shared, counted *rollout.Account, host Host, device id.DeviceID, query wire.KeyQuery) *Client {
	return &Client{acct, shared, counted, host, device, query}
}

// Query is a /keys/query of the client that is under way. End must be called.
type Query struct {
	client  *Client
	query   *trustcache.ClientQuery
	version uint64 // of what was known when it began
	rules   *orgrules.Version
}

// BeginQuery is called before the client's query goes to the homeserver.
func (c *Client) BeginQuery() *Query {
	by := c.Env.Rules.Now()
	return &Query{c, c.Tracker.BeginClientQuery(by.Any()), c.Tracker.Version(), by}
}

// End is called when the answer has been dealt with, or there is none.
func (q *Query) End() { q.query.End() }

// Answered learns from the answer and returns the devices that the client is not shown. whole
// reports whether all devices of a user were asked for.
func (q *Query) Answered(ctx context.Context, res *trustcache.QueryResult, whole func(id.UserID) bool) (map[id.UserID][]id.DeviceID, error) {
	view, err := q.query.Answered(ctx, res, whole, q.client.Env.Policy().Native)
	if err != nil {
		return nil, err
	}
	if err := q.client.narrow(ctx, q.rules, &view); err != nil {
		return nil, err
	}
	q.client.counted.NativeAnswer(&view)
	if len(view.Hidden) > 0 && q.client.Tracker.Version() != q.version {
		q.client.heardOfDevices()
	}
	return view.Hidden, nil
}

// Recipient is a device for which the client claims a one-time key, or has encrypted something.
type Recipient struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	// Message says that it is a message, For the keys for which it is encrypted.
	Message bool
	For     []string
}

// MayGet reports which of the recipients may be given what the client asks or sends. With
// [core.IdentityChangedError] nothing is.
//
// One-time keys of the user's own devices may be claimed in any case: the client is shown
// those devices, claims without being asked, and would not try again for a long time if it were
// given nothing, so that a device would get no room key for a while after it was confirmed.
func (c *Client) MayGet(ctx context.Context, to []Recipient) ([]bool, error) {
	known, err := c.within(ctx, to)
	if err != nil {
		return nil, err
	}
	policy := c.Env.Policy()
	receive := make(map[id.UserID]bool)
	for i := range to {
		if to[i].Message {
			receive[to[i].UserID] = true
		}
	}
	users := make([]*trustcache.User, 0, len(receive))
	for _, user := range slices.Sorted(maps.Keys(receive)) {
		users = append(users, known[user])
	}
	if err := c.gate(users, policy); err != nil {
		return nil, err
	}
	wanted := make([]wanted, len(to))
	for i := range to {
		w := &wanted[i]
		w.Recipient, w.user, w.device = &to[i], known[to[i].UserID], known[to[i].UserID].Device(to[i].DeviceID)
		if w.Message && w.device != nil && !slices.Equal(w.For, []string{w.device.Curve25519.String()}) {
			w.device = nil // it is for another device than the one that it goes to
		}
		w.decision = trustcache.Native(w.user, w.device, policy.Native)
		w.given = w.decision.Outcome == trustcache.NativeShow || !w.Message && w.user.Known() && w.user.Own
	}
	by := c.Env.Rules.Now()
	if err := c.narrowGiven(ctx, by, wanted); err != nil {
		return nil, err
	}
	out := make([]bool, len(to))
	log, unknown := c.begin(to).Under(by.Policy()), 0
	for i := range wanted {
		w := &wanted[i]
		if w.Message {
			c.counted.NativeMessage(store.DeviceRef{UserID: w.UserID, DeviceID: w.DeviceID}, w.decision)
		}
		out[i] = w.given
		if w.device == nil {
			unknown++
		}
		if w.device != nil || unknown <= maxUnknown {
			w.record(log)
		}
	}
	if unknown > maxUnknown {
		log.Note(fmt.Sprintf("and %d devices more that the homeserver does not show", unknown-maxUnknown))
	}
	if err := log.Append(ctx, c.Env); err != nil {
		return nil, fmt.Errorf("write the audit log: %w", err)
	}
	return out, nil
}

// begin begins the record of what a request is given.
func (c *Client) begin(to []Recipient) *auditing.Decision {
	kind := audit.KindNativeClaim
	if slices.ContainsFunc(to, func(r Recipient) bool { return r.Message }) {
		kind = audit.KindNativeSend
	}
	return auditing.BeginFor(c.Env, c.User, c.device, kind)
}

// wanted is what is decided about one recipient.
type wanted struct {
	*Recipient
	user     *trustcache.User
	device   *trustcache.Device // nil for one that is not known
	decision trustcache.NativeDecision
	given    bool
	denied   string // the rule of the organisation that denies it
}

// record writes down what was decided about one recipient.
func (w *wanted) record(log *auditing.Decision) {
	outcome, rule, device := audit.Refused, string(w.decision.Reason), w.device
	if w.given {
		outcome = audit.Given
	}
	if w.given && w.decision.Outcome != trustcache.NativeShow {
		rule = auditing.RuleOwnDevice
	}
	if w.denied != "" {
		rule = w.denied
	}
	if device == nil {
		device, rule = &trustcache.Device{UserID: id.UserID(short(w.UserID.String())), DeviceID: id.DeviceID(short(w.DeviceID.String()))}, auditing.RuleUnknownDevice
	}
	log.Add(w.user, device, outcome, "", rule)
}

// maxUnknown is how many devices that nobody has are in the record of one request by name. The
// others are counted: a client can invent as many as it likes, again and again.
const maxUnknown = 100

// short returns the beginning of an ID that is longer than one can be.
func short(text string) string {
	if len(text) <= wire.MaxIDLength {
		return text
	}
	return strings.ToValidUTF8(text[:wire.MaxIDLength], "") + "…"
}

func (c *Client) within(ctx context.Context, to []Recipient) (map[id.UserID]*trustcache.User, error) {
	users := make([]id.UserID, len(to))
	for i := range to {
		users[i] = to[i].UserID
	}
	return c.known(ctx, users)
}

// known returns users as they are known, not longer than maxAge ago.
func (c *Client) known(ctx context.Context, users []id.UserID) (map[id.UserID]*trustcache.User, error) {
	known, err := c.Tracker.Within(ctx, c.query, users, maxAge)
	if errors.Is(err, trustcache.ErrNotAnswered) {
		return nil, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	return known, err
}

// gate returns why the client may not send to users: because an identity changed.
func (c *Client) gate(users []*trustcache.User, policy trustcache.Policy) error {
	decision := trustcache.NativeGate(users, policy.Native, policy.NativeChanges)
	c.counted.NativeGate(&decision)
	if decision.Outcome == trustcache.GateAllow {
		return nil
	}
	refused := &core.IdentityChangedError{}
	for _, b := range decision.Blocked {
		if b.State == trustcache.PinVerificationLost {
			refused.Lost = append(refused.Lost, b.UserID)
		} else {
			refused.Users = append(refused.Users, b.UserID)
		}
	}
	return refused
}

// MayClear reports whether the client may send keys to devices that are not encrypted.
func (c *Client) MayClear() bool {
	enforced := c.Env.Policy().Native != trustcache.ModeWarn
	c.counted.NativeInClear(enforced)
	return !enforced
}

// MaySend returns why the client may not send encrypted events to a room; nil when it may.
// Only where the policy says that identity changes block, and somebody's did, or where rules are
// about rooms, it asks the homeserver.
func (c *Client) MaySend(ctx context.Context, room id.RoomID) error {
	policy := c.Env.Policy()
	if policy.Native == trustcache.ModeOff {
		return nil
	}
	if err := c.ruled(ctx, room); err != nil || policy.NativeChanges == trustcache.NativeChangesWarn {
		return err
	}
	unsettled, err := c.host.Unsettled(ctx)
	if err != nil || len(unsettled) == 0 {
		return err
	}
	members, err := rooms.ReadRecipients(ctx, c.call, room)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	members = slices.DeleteFunc(members, func(user id.UserID) bool { return !unsettled[user] })
	known, err := c.Tracker.Cached(ctx, members)
	if err != nil {
		return err
	}
	slices.Sort(members)
	users := make([]*trustcache.User, len(members))
	for i, user := range members {
		users[i] = known[user]
	}
	return c.gate(users, policy)
}

// call sends a request with the client's token.
func (c *Client) call(ctx context.Context, r wire.Request) error {
	r.User = c.User
	if c.query.Asserted {
		if r.Query == nil {
			r.Query = make(map[string]string)
		}
		r.Query["user_id"] = c.User.String()
	}
	return c.Env.Homeserver.Call(ctx, c.query.Token, r)
}
