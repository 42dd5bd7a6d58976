package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Rules of this file:
//   - Some requests concern an account that is only known when the homeserver has answered: a
//     login, a logout of another session. What is to be done then is done where the account is.
//   - Tokens and passwords are in the body only, in the plain there and nowhere else, and are
//     overwritten when the call has ended.

const (
	// maxCall is the largest body of a call, in bytes.
	maxCall = 1 << 20
	// callWait is how long a call may take: a login may set the account up.
	callWait = time.Minute
	// findWait is how long it is tried to find the account when it moves.
	findWait = 10 * time.Second
)

// The calls by name.
const (
	callLoggedIn      = "logged_in"
	callRefreshed     = "refreshed"
	callForget        = "forget"
	callForgetAll     = "forget_all"
	callForgetAccount = "forget_account"
	callUnknownToken  = "unknown_token"
)

// errCallFailed means that the replica that has the account could not do it; its log says why.
var errCallFailed = errors.New("the replica that owns the account could not do it")

// call is one call with what it needs.
type call struct {
	name     string
	who      interceptors.Identity
	password secret.Bytes
	devices  []id.DeviceID
	soft     bool
}

// callBody is a call on its way. It is never formatted.
type callBody struct {
	User     id.UserID     `json:"user"`
	Device   id.DeviceID   `json:"device,omitempty"`
	Guest    bool          `json:"guest,omitempty"`
	Asserted bool          `json:"asserted,omitempty"`
	Token    []byte        `json:"token,omitempty"`
	Password []byte        `json:"password,omitempty"`
	Devices  []id.DeviceID `json:"devices,omitempty"`
	Soft     bool          `json:"soft,omitempty"`
}

func (c *call) marshal() ([]byte, error) {
	token := []byte(c.who.Token.Reveal())
	defer clear(token)
	raw, err := json.Marshal(callBody{
		User: c.who.UserID, Device: c.who.DeviceID, Guest: c.who.Guest, Asserted: c.who.Asserted,
		Token: token, Password: c.password.Reveal(), Devices: c.devices, Soft: c.soft,
	})
	if err != nil {
		return nil, errors.New("write a call down") // the error could quote it
	}
	return raw, nil
}

func (c *call) unmarshal(raw []byte) error {
	var b callBody
	if err := json.Unmarshal(raw, &b); err != nil || b.User == "" {
		return errors.New("a call cannot be read") // the error could quote it
	}
	c.who = interceptors.Identity{UserID: b.User, DeviceID: b.Device, Guest: b.Guest, Asserted: b.Asserted, Token: secret.NewString(string(b.Token))}
	c.password, c.devices, c.soft = b.Password, b.Devices, b.Soft
	clear(b.Token)
	return nil
}

// here does a call in this process.
func (n *Node) here(ctx context.Context, c *call) error {
	switch c.name {
	case callLoggedIn:
		return n.o.Devices.LoggedIn(ctx, c.who, c.password) //nolint:wrapcheck // the engine's own, as below
	case callRefreshed:
		return n.o.Devices.Refreshed(ctx, c.who) //nolint:wrapcheck // as above
	case callForget:
		return n.o.Devices.Forget(ctx, c.who.UserID, c.devices...) //nolint:wrapcheck // as above
	case callForgetAll:
		return n.o.Devices.ForgetAll(ctx, c.who.UserID, c.devices...) //nolint:wrapcheck // as above
	case callForgetAccount:
		return n.o.Devices.ForgetAccount(ctx, c.who.UserID) //nolint:wrapcheck // as above
	case callUnknownToken:
		return n.o.UnknownToken(ctx, c.who, c.soft)
	}
	return fmt.Errorf("there is no call %q", c.name)
}

// atOwner does a call where the account is. All calls can be repeated.
func (n *Node) atOwner(ctx context.Context, c *call) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	deadline := time.Now().Add(findWait)
	for pauses := (backoff.Pauses{}); ; {
		err := n.tryAtOwner(ctx, c)
		if !IsMoving(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pauses.Next(Looks())):
		}
	}
}

func (n *Node) tryAtOwner(ctx context.Context, c *call) error {
	if requestOf(ctx).holds == c.who.UserID { // asking again could wait for the request itself
		return n.here(ctx, c)
	}
	leave, err := n.Enter(ctx, c.who.UserID)
	elsewhere, ok := errors.AsType[*store.ElsewhereError](err)
	switch {
	case err == nil:
		defer leave()
		return n.here(ctx, c)
	case !ok:
		return err
	}
	err = n.post(ctx, c, elsewhere.Replica)
	if IsMoving(err) {
		n.Moved(c.who.UserID, elsewhere.Replica)
	}
	return err
}

// post sends a call to another replica.
func (n *Node) post(ctx context.Context, c *call, to store.Replica) error {
	raw, err := c.marshal()
	if err != nil {
		return err
	}
	defer clear(raw)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://replica/", bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("make a call: %w", err)
	}
	sent := newSentBody(raw)
	req.Body, req.GetBody = sent, nil // it is overwritten below
	defer sent.wait()                 // the transport may still read it
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.exchange(req, to, pathCall+c.name, requestOf(ctx).id)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	if resp.StatusCode != http.StatusOK {
		return errCallFailed
	}
	return nil
}

// called does a call that another replica sends.
func (s *Server) called(w http.ResponseWriter, r *http.Request) {
	n, began := s.n, time.Now()
	requestID := r.Header.Get(headerRequest)
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCall))
	defer clear(raw)
	c := &call{name: chi.URLParam(r, "call")}
	if err != nil || !isName(requestID) || c.unmarshal(raw) != nil {
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", "The call cannot be read.")
		return
	}
	defer c.password.Wipe()
	ctx := n.o.Log.With().Str("request_id", requestID).Logger().WithContext(r.Context())
	leave, err := n.Accept(ctx, c.who.UserID)
	if err == nil {
		err = n.here(WithRequest(ctx, requestID, c.who.UserID), c)
		leave()
	}
	switch {
	case err == nil:
		Answered(w)
		writeJSON(w, http.StatusOK, struct{}{})
	case IsMoving(err):
		Moved(w)
	default:
		Answered(w)
		refuse(w, http.StatusInternalServerError, "M_UNKNOWN", "The call failed; the log of this replica says why.")
	}
	level := zerolog.InfoLevel
	if err != nil && !IsMoving(err) {
		level = zerolog.WarnLevel
	}
	n.o.Log.WithLevel(level).Str("request_id", requestID).Str("call", c.name).Dur("duration_ms", time.Since(began)).AnErr("error", err).Msg("call of another replica")
}

// sentBody is a body that tells when the transport is done with it.
type sentBody struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func newSentBody(raw []byte) *sentBody {
	return &sentBody{Reader: bytes.NewReader(raw), closed: make(chan struct{})}
}

func (b *sentBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// wait returns when it is not read any more: an http.RoundTripper closes every body.
func (b *sentBody) wait() { <-b.closed }
