package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/cluster"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/endtoend"
	"e2ee-proxy/store"
)

// Rules of this file:
//   - A request of a user whose account is another process's is handed to that process, and
//     answered with what it answers. It goes once from one process to another: who is handed a
//     request answers it, or says that it is the wrong one.
//   - Where the account is moves: then it is looked again, for some seconds. What may have been
//     done already is repeated only if doing it twice is the same as doing it once, or if its handler
//     finds out whether it was done, see [interceptors.Exchange].
//   - Limits on one device or user hold where the account is, those on all together on both.

// Owners knows to which process each account belongs. [cluster.Node] is one.
type Owners interface {
	// Enter begins a request of a user here, which ends with leave. The error is a
	// [store.ElsewhereError] if the account is another process's.
	Enter(ctx context.Context, user id.UserID) (leave func(), err error)
	// Accept is like Enter, for a request that another process has handed over.
	Accept(ctx context.Context, user id.UserID) (leave func(), err error)
	// Send sends a request to the process that has the account.
	Send(req *http.Request, to store.Replica, f cluster.Forwarded) (*http.Response, error)
	// Moved says that an account was not where it was believed to be.
	Moved(user id.UserID, from store.Replica)
	// TellDropped tells the other processes what is no longer to be believed.
	TellDropped(ctx context.Context, kind, name string)
}

const (
	// findWait is how long it is tried to find an account that moves: a process that died is
	// known to be dead well before.
	findWait = 10 * time.Second
	// parkedLong is how long a long poll has waited when it is ended early instead of repeated,
	// so that nobody waits much longer than asked.
	parkedLong = 2 * time.Second
)

// search is how a request looks for its account.
type search struct {
	pauses backoff.Pauses
	until  time.Time // zero until something went wrong
	body   *keptBody
}

// atOwner answers a request where its account is.
func (p *Proxy) atOwner(q *request) error {
	s := search{body: p.keep(q)}
	defer s.body.release()
	for {
		began := time.Now()
		err := p.once(q, &s)
		switch {
		case err == nil, q.w.status != 0, q.r.Context().Err() != nil, q.body.failure() != nil: // of the client
			return err
		case errors.Is(err, store.ErrLeaseLost), errors.Is(err, cluster.ErrStranger):
			return q.notFound(err)
		case !cluster.IsMoving(err):
			return err
		}
		if q.from != "" {
			return notOursError{err}
		}
		if q.since() != "" && time.Since(began) > parkedLong {
			return errDraining // it ends early, and comes back
		}
		if time.Since(began) > parkedLong {
			s = search{body: s.body} // it was on its way until now
		}
		if !q.mayRepeat(err, s.body) || !s.wait(q.r.Context()) {
			return q.notFound(err)
		}
		q.again = q.again || mayBeDone(err)
	}
}

// once tries to answer a request where its account is now.
func (p *Proxy) once(q *request, s *search) error {
	enter := p.owners.Enter
	if q.from != "" {
		enter = p.owners.Accept
	}
	leave, err := func() {}, error(nil)
	if q.who.UserID != "" {
		leave, err = enter(q.r.Context(), q.who.UserID)
	}
	if err == nil {
		q.holds = q.who.UserID
		if q.route.lane == laneMedia && q.body == nil {
			leave() // what a download needs it has before its first byte, and may take long
			leave = func() {}
		}
		if q.body != nil {
			s.body.settle()
			q.r.Body = s.body.again()
		}
		if err = p.here(q); cluster.IsMoving(err) {
			err = midwayError{err}
		}
		leave()
		q.holds = ""
	}
	elsewhere, ok := errors.AsType[*store.ElsewhereError](err)
	if !ok || elsewhere.Replica.Name == "" || q.from != "" || q.w.status != 0 || !q.mayRepeat(err, s.body) {
		return err
	}
	err = p.handOn(q, elsewhere.Replica, s.body)
	if cluster.IsMoving(err) {
		p.owners.Moved(q.who.UserID, elsewhere.Replica)
	}
	return err
}

// handOn has another process answer a request.
func (p *Proxy) handOn(q *request, to store.Replica, kept *keptBody) error {
	ctx, cancel := context.WithCancelCause(q.r.Context())
	defer cancel(nil)
	answered := func() bool { return true }
	if q.route.lane == lanePoll {
		answered = context.AfterFunc(p.draining, func() { cancel(errDraining) })
	}
	out := (&http.Request{Method: q.r.Method, Header: q.r.Header.Clone(), ContentLength: q.r.ContentLength}).WithContext(ctx)
	kept.setTo(out)
	defer kept.latest.Add(1) // the transport may go on reading
	target := q.path
	if q.query != "" {
		target += "?" + q.query
	}
	resp, err := p.owners.Send(out, to, cluster.Forwarded{
		RequestID: q.id.String(), Again: q.again, Target: target, Host: q.r.Host, Client: q.r.RemoteAddr,
	})
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err //nolint:wrapcheck // it says what it is about
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end or fails
	if !answered() {
		return errDraining // at the moment of the answer
	}
	q.to = to.Name
	p.forgetTokens(q, resp.StatusCode)
	if resp.Body != http.NoBody {
		resp.Body = p.watches.watch(resp.Body, p.deadlines.Idle)
	}
	endtoend.Copy(q.w.Header(), resp.Header)
	q.w.WriteHeader(resp.StatusCode)
	return p.copyBody(q.w, resp)
}

// forgetTokens drops the cached identities that an answer may have ended. The homeserver is asked
// again then, so that it does no harm if the other process is wrong.
func (p *Proxy) forgetTokens(q *request, status int) {
	switch {
	case status == http.StatusUnauthorized && q.cred.token != "":
		p.identities.drop(q.cred.token)
	case q.route.endsSessions && status/100 == 2:
		p.endSessions(q)
	}
}

// ServeForwarded answers a request that another process of the cluster has handed over, with the
// target, header and address that its client had there.
func (p *Proxy) ServeForwarded(w http.ResponseWriter, r *http.Request, f cluster.Forwarded, from string) {
	p.answer(w, r, &request{id: givenID(f.RequestID), from: from, again: f.Again})
}

// notOursError tells the process that has handed a request over to look again.
type notOursError struct{ why error }

func (e notOursError) Error() string { return "handed to the wrong process: " + e.why.Error() }
func (e notOursError) Unwrap() error { return e.why }

// renderNotOurs does so.
func (q *request) renderNotOurs(e notOursError) {
	q.w.status = http.StatusMisdirectedRequest
	if mayBeDone(e.why) {
		cluster.Broken(q.w.ResponseWriter)
		return
	}
	cluster.Moved(q.w.ResponseWriter)
}

// midwayError is an error of a handler, which may have done something before.
type midwayError struct{ why error }

func (e midwayError) Error() string { return e.why.Error() }
func (e midwayError) Unwrap() error { return e.why }

// mayBeDone reports whether a request may have had its effect although it was not answered.
func mayBeDone(err error) bool {
	_, midway := errors.AsType[midwayError](err)
	return midway || errors.Is(err, cluster.ErrBroken)
}

// mayRepeat reports whether a request can be made again after an error.
func (q *request) mayRepeat(err error, kept *keptBody) bool {
	return kept.whole() && (!mayBeDone(err) || q.isIdempotent())
}

// isIdempotent reports whether a request can be made twice: by its method, because it only asks,
// because it is the same the second time, or because its handler finds out whether it was done.
func (q *request) isIdempotent() bool {
	switch q.route.handler {
	case interceptors.SlidingSync, interceptors.QueryKeys, interceptors.Search, interceptors.ReadMarkers,
		interceptors.Join, interceptors.JoinByAlias, interceptors.Knock, interceptors.Leave, interceptors.Forget, interceptors.DeleteDevices,
		// The second time is another key, or another file, of which nobody knows the first.
		interceptors.UploadKeys, interceptors.ClaimKeys, interceptors.CreateFile, interceptors.UploadFile,
		interceptors.ControlBootstrap, interceptors.ControlCheckup, interceptors.ControlRecover, interceptors.ControlAcknowledge, interceptors.ControlWithdraw,
		interceptors.ControlDismiss, interceptors.ControlImportKeys, interceptors.ControlRestoreKeys, interceptors.ControlVerifyUser:
		return true
	case interceptors.Send, interceptors.Redact, interceptors.CreateRoom, interceptors.Upgrade,
		interceptors.Invite, interceptors.Kick, interceptors.Ban, interceptors.Unban,
		interceptors.Logout, interceptors.LogoutAll, interceptors.Deactivate, interceptors.Password, interceptors.ControlReset:
		return true
	// Steps of a verification that has ended with the process are answered with how it ended.
	case interceptors.ControlVerify, interceptors.ControlVerificationAccept, interceptors.ControlVerificationEmoji, interceptors.ControlVerificationConfirm,
		interceptors.ControlVerificationScan, interceptors.ControlVerificationScanned, interceptors.ControlVerificationCancel,
		interceptors.ControlExportKeys, interceptors.ControlAdminEndSessions,
		interceptors.Console: // its buttons do the same as these calls
		return true
	case "":
		return q.r.Method != http.MethodPost && q.r.Method != http.MethodPatch || q.route.pattern == client+"/user/{userId}/filter"
	}
	return q.r.Method != http.MethodPost && q.r.Method != http.MethodPatch
}

// wait waits before the next try; false when there is none.
func (s *search) wait(ctx context.Context) bool {
	if s.until.IsZero() {
		s.until = time.Now().Add(findWait)
	}
	if !time.Now().Before(s.until) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(s.pauses.Next(cluster.Looks())):
		return true
	}
}

// notFound returns the client's error for an account that was not found in time, or for a body that
// is too large to be made again here. The client may repeat what is the same the second time.
func (q *request) notFound(err error) *apierr.Error {
	e := &apierr.Error{
		Status: http.StatusServiceUnavailable, ErrCode: apierr.CodeUnknown, Err: err,
		Text: "The process of the proxy that serves this account is being replaced.", Hint: "Try again in a moment.",
		Header: apierr.RetryAfter(time.Second),
	}
	if mayBeDone(err) && !q.isIdempotent() {
		e.Status, e.Text = http.StatusBadGateway, "The process of the proxy that served this account ended before it answered."
	}
	return e
}
