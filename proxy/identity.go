package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

const (
	// maxIdentityAge is how long a confirmed token is believed: at most 60 s
	// (docs/architecture.md, "One request").
	maxIdentityAge = 60 * time.Second
	// maxAsserted is how many asserted identities are kept for one token.
	maxAsserted = 4096
	// maxWhoami is how much of a whoami response is read, in bytes.
	maxWhoami = 64 << 10
	// whoamiTimeout bounds a look-up, which goes on when the client that caused it is gone.
	whoamiTimeout = 15 * time.Second
)

// assertedIdentity is the user and device that a request acts as, if not its token's (application
// services).
type assertedIdentity struct{ user, device string }

// identities finds the owners of access tokens and caches them for a short time, under a
// keyed hash of the token. What the homeserver refuses is not cached.
type identities struct {
	hash func([]byte) [32]byte
	ttl  time.Duration
	now  func() time.Time
	// ask calls /account/whoami.
	ask func(ctx context.Context, c credentials) (interceptors.Identity, error)
	// count counts look-ups by their result.
	count func(result string)

	// others is what the other replicas found out; see sharedidentity.go.
	others othersIdentities

	flights singleflight.Group // one look-up at a time for each lookUpKey
	waiting sync.WaitGroup     // the goroutines that make or await look-ups

	mu    sync.Mutex
	known *lru.Cache[[32]byte, map[assertedIdentity]confirmed]
	// lookingUp are the look-ups under way. The value reports whether the answer is already out
	// of date, because the token was dropped meanwhile.
	lookingUp map[lookUpKey]bool
}

// confirmed is an identity without its token.
type confirmed struct {
	user   id.UserID
	device id.DeviceID
	guest  bool
	until  time.Time
}

// lookUpKey is the token, and whom it acts as, that a look-up is about.
type lookUpKey struct {
	token [32]byte
	as    assertedIdentity
}

// String returns a different text for each key: the hash has a fixed length, and the
// length of the user is included.
func (s lookUpKey) String() string {
	return string(s.token[:]) + strconv.Itoa(len(s.as.user)) + ":" + s.as.user + s.as.device
}

func newIdentities(hash func([]byte) [32]byte, size int, ttl time.Duration, ask func(context.Context, credentials) (interceptors.Identity, error)) (*identities, error) {
	known, err := lru.New[[32]byte, map[assertedIdentity]confirmed](size)
	if err != nil {
		return nil, fmt.Errorf("make the identity cache: %w", err)
	}
	return &identities{hash: hash, ttl: ttl, now: time.Now, ask: ask, known: known, lookingUp: make(map[lookUpKey]bool), count: func(string) {}}, nil
}

// owner returns the owner of a token. The error is the homeserver's refusal, or that it could
// not be asked; either way there is no identity. A caller that gives up does not cancel the
// look-up for the others.
func (c *identities) owner(ctx context.Context, cred credentials) (interceptors.Identity, error) {
	of := lookUpKey{c.hash([]byte(cred.token)), assertedIdentity{cred.user, cred.device}}
	if who, ok := c.cached(of, cred.token); ok {
		return who, nil
	}
	type answer struct {
		who interceptors.Identity
		err error
	}
	answers := make(chan answer, 1)
	lasting := context.WithoutCancel(ctx)
	// DoChan would start a goroutine that nobody could wait for, since it does not report who
	// was first.
	c.waiting.Go(func() {
		found, err, _ := c.flights.Do(of.String(), func() (any, error) { return c.lookUp(lasting, of, cred) })
		who, ok := found.(interceptors.Identity)
		if err == nil && !ok {
			err = errNoWhoami
		}
		answers <- answer{who, err}
	})
	select {
	case got := <-answers:
		return got.who, got.err
	case <-ctx.Done():
		return interceptors.Identity{}, fmt.Errorf("wait for whoami: %w", context.Cause(ctx))
	}
}

// wait returns when no look-up is under way. No other may begin meanwhile.
func (c *identities) wait() { c.waiting.Wait() }

// cached returns the cached identity of a key.
func (c *identities) cached(of lookUpKey, token string) (interceptors.Identity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, _ := c.known.Get(of.token)
	if k, ok := all[of.as]; ok && c.now().Before(k.until) {
		c.count("cached")
		return k.identity(token), true
	}
	return interceptors.Identity{}, false
}

// errNoWhoami means that a look-up has no result: the request is refused.
var errNoWhoami = errors.New("whoami was not answered")

// lookUp asks the homeserver on behalf of all who wait. A panic below it is an error for
// all of them: singleflight would end the process, because nobody could recover.
func (c *identities) lookUp(ctx context.Context, of lookUpKey, cred credentials) (who interceptors.Identity, err error) {
	if who, ok := c.cached(of, cred.token); ok { // an earlier look-up has just answered
		return who, nil
	}
	asking, cancel := context.WithTimeout(ctx, whoamiTimeout)
	defer cancel()
	started := c.now()
	c.mu.Lock()
	c.lookingUp[of] = false
	c.mu.Unlock()
	until := started.Add(c.ttl)
	defer func() {
		if v := recover(); v != nil {
			// Its value could hold anything, so only its type and place are in the error.
			who, err = interceptors.Identity{}, fmt.Errorf("%w: panic with a %T at %s", errNoWhoami, v, debug.Stack())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if err == nil && !c.lookingUp[of] {
			c.remember(of, who, until)
		}
		delete(c.lookingUp, of)
	}()
	if found, age, ok := c.fromOthers(asking, of, cred.token); ok {
		until = age
		c.count("shared")
		return found, nil
	}
	who, err = c.ask(asking, cred)
	var said *apierr.Error
	switch {
	case err == nil:
		c.count("confirmed")
		c.forOthers(asking, of, who, started)
	case errors.As(err, &said) && said.Status < http.StatusInternalServerError:
		c.count("refused")
	default:
		c.count("failed")
	}
	return who, err
}

func (c *identities) remember(of lookUpKey, who interceptors.Identity, until time.Time) {
	until = c.notUnheard(until)
	all, ok := c.known.Get(of.token)
	if !ok || len(all) >= maxAsserted {
		all = make(map[assertedIdentity]confirmed, 1)
		c.known.Add(of.token, all)
	}
	all[of.as] = confirmed{who.UserID, who.DeviceID, who.Guest, until}
}

// drop removes a token from the cache of every replica and returns its last known identities
// here. Look-ups in flight will not be cached.
func (c *identities) drop(token string) []interceptors.Identity {
	hash := c.hash([]byte(token))
	last := c.dropHere(hash, token)
	c.others.drop(kindToken, nameOf(hash))
	return last
}

func (c *identities) dropHere(hash [32]byte, token string) []interceptors.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	for of := range c.lookingUp {
		if of.token == hash {
			c.lookingUp[of] = true
		}
	}
	all, _ := c.known.Peek(hash)
	c.known.Remove(hash)
	last := make([]interceptors.Identity, 0, len(all))
	for _, k := range all {
		last = append(last, k.identity(token))
	}
	return last
}

// dropUser removes every token of a user from the cache of every replica.
func (c *identities) dropUser(user id.UserID) {
	c.dropUserHere(user)
	c.others.drop(kindUser, string(user))
}

func (c *identities) dropUserHere(user id.UserID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for of := range c.lookingUp {
		c.lookingUp[of] = true
	}
	for _, hash := range c.known.Keys() {
		all, _ := c.known.Peek(hash)
		for _, k := range all {
			if k.user == user {
				c.known.Remove(hash)
				break
			}
		}
	}
}

func (k confirmed) identity(token string) interceptors.Identity {
	return interceptors.Identity{UserID: k.user, DeviceID: k.device, Guest: k.guest, Token: secret.NewString(token)}
}

// whoami asks the homeserver who owns a token.
func (p *Proxy) whoami(ctx context.Context, c credentials) (interceptors.Identity, error) {
	query := url.Values{}
	if c.user != "" {
		query.Set("user_id", c.user)
	}
	if c.device != "" {
		query.Set("device_id", c.device)
		query.Set("org.matrix.msc3202.device_id", c.device)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base.String(), nil)
	if err != nil {
		return interceptors.Identity{}, fmt.Errorf("make a whoami request: %w", err)
	}
	p.setTarget(req, "/_matrix/client/v3/account/whoami", query.Encode())
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := p.trips[laneQuick].RoundTrip(req)
	if err != nil {
		return interceptors.Identity{}, fmt.Errorf("whoami: %w", p.upstreamError(err))
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	if err := p.checkUnauthorized(resp); err != nil {
		return interceptors.Identity{}, fmt.Errorf("whoami: %w", err)
	}
	return readWhoami(resp, c.token)
}

func readWhoami(resp *http.Response, token string) (interceptors.Identity, error) {
	var none interceptors.Identity
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusBadRequest:
		return none, apierr.FromResponse(resp)
	default:
		return none, apierr.FromOther(resp, "say whose access token this is")
	}
	var answer struct {
		UserID   id.UserID   `json:"user_id"`
		DeviceID id.DeviceID `json:"device_id"`
		IsGuest  bool        `json:"is_guest"`
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxWhoami))
	if err != nil {
		return none, apierr.Unreachable(fmt.Errorf("read whoami: %w", err))
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return none, apierr.NotHomeserver(errors.New("whoami answered with something else than JSON"))
	}
	if answer.UserID == "" {
		return none, apierr.Unreachable(errors.New("whoami has no user_id"))
	}
	return interceptors.Identity{
		UserID: answer.UserID, DeviceID: answer.DeviceID, Guest: answer.IsGuest, Token: secret.NewString(token),
	}, nil
}

// errEndSession marks an error of the engine, as opposed to one of the homeserver.
var errEndSession = errors.New("end a session")

// checkUnauthorized checks a response for signs that the token is no longer valid: on any 401 it is
// dropped at once, so that the next request asks for its owner, and on M_UNKNOWN_TOKEN the
// engine is called, which checks that before it deletes anything (requirement 22.1). The
// body can still be read from its beginning.
func (p *Proxy) checkUnauthorized(resp *http.Response) error {
	if resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	token, ok := bearerOf(resp.Request.Header)
	if !ok {
		return nil
	}
	owners := p.identities.drop(token)
	start, err := io.ReadAll(io.LimitReader(resp.Body, maxWhoami))
	resp.Body = &replayBody{start: start, rest: resp.Body, err: err}
	var said struct {
		ErrCode    string `json:"errcode"`
		SoftLogout bool   `json:"soft_logout"`
	}
	// A body that is not JSON, or compressed, says nothing; the next whoami will.
	if json.Unmarshal(start, &said) != nil || said.ErrCode != apierr.CodeUnknownToken || p.onUnknownToken == nil {
		return nil
	}
	if len(owners) == 0 {
		owners = []interceptors.Identity{{Token: secret.NewString(token)}}
	}
	var errs []error
	for _, who := range owners {
		if err := p.onUnknownToken(resp.Request.Context(), who, said.SoftLogout); err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", errEndSession, err))
		}
	}
	return errors.Join(errs...)
}

// replayBody is a body whose start was read and is read again.
type replayBody struct {
	start []byte
	rest  io.ReadCloser
	err   error
}

func (r *replayBody) Read(p []byte) (int, error) {
	if len(r.start) > 0 {
		n := copy(p, r.start)
		r.start = r.start[n:]
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.rest.Read(p)
}

func (r *replayBody) Close() error { return r.rest.Close() }
