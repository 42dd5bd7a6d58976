package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// Rules of this file:
//   - It is the only place that turns an error into a response.
//   - The client gets the public text of an interceptors.Error. Of every other error it
//     gets a request ID, under which the log has the rest.
//   - Nothing is added to a response that has begun; its connection is broken instead.

// statusClientGone is logged for a client that left before its answer.
const statusClientGone = 499

// render answers with an error.
func (p *Proxy) render(q *request, err error) {
	q.err = err
	notOurs, isNotOurs := errors.AsType[notOursError](err)
	switch {
	case q.w.status != 0:
		q.abort = true
	case p.isGone(q, err):
		q.w.status = statusClientGone
		q.abort = true
	case q.isPage():
		p.renderPage(q, err)
	case q.r.Method == http.MethodOptions:
		preflight(q) // so that the browser sends its request, and can read why that is refused
	case isNotOurs:
		q.renderNotOurs(notOurs)
	case p.isDraining(q, err):
		p.renderDraining(q)
	default:
		p.renderError(q, p.publicError(q, err))
	}
}

// isGone reports whether nobody waits for the answer any more.
func (p *Proxy) isGone(q *request, err error) bool {
	if errors.Is(q.body.failure(), errSlowBody) {
		return false // the server takes the deadline for a client that left
	}
	return q.r.Context().Err() != nil || errors.Is(err, errClientGone) ||
		errors.Is(q.body.failure(), io.ErrUnexpectedEOF)
}

// isDraining reports whether a long poll failed because the proxy shuts down. A handler may
// have wrapped the error.
func (p *Proxy) isDraining(q *request, err error) bool {
	return errors.Is(err, errDraining) ||
		p.draining.Err() != nil && q.route != nil && q.route.lane == lanePoll && errors.Is(err, context.Canceled)
}

// renderDraining ends a parked long poll. A sync with a position gets an answer that says
// "nothing new, go on from where you are", which is always true and makes every client come
// back at once, to whichever process serves then.
func (p *Proxy) renderDraining(q *request) {
	if since := q.since(); since != "" {
		writeJSON(q, http.StatusOK, map[string]any{"next_batch": since})
		return
	}
	p.renderError(q, &apierr.Error{
		Status: http.StatusServiceUnavailable, ErrCode: apierr.CodeUnknown,
		Text: "The proxy is being restarted.", Hint: "Try again in a moment.",
		Header: http.Header{"Retry-After": {"1"}},
	})
}

// since returns the position of a sync; empty if it has none, or the request is none.
func (q *request) since() string {
	if q.route.handler != interceptors.Sync {
		return ""
	}
	values, err := url.ParseQuery(q.query)
	if err != nil {
		return ""
	}
	return values.Get("since")
}

// publicError returns the error that the client gets.
func (p *Proxy) publicError(q *request, err error) *apierr.Error {
	var tooLarge *http.MaxBytesError
	var known *apierr.Error
	switch failure := q.body.failure(); {
	case errors.As(failure, &tooLarge), errors.As(err, &tooLarge):
		return apierr.TooLarge(tooLarge.Limit)
	case errors.As(failure, &known): // no memory for more of it
		return known
	case errors.Is(failure, errSlowBody):
		return apierr.NewError(http.StatusRequestTimeout, apierr.CodeUnknown, "The request body came too slowly.")
	case failure != nil:
		return apierr.NewError(http.StatusBadRequest, apierr.CodeUnknown, "The request body could not be read.")
	case errors.As(err, &known):
		return known
	case errors.Is(err, context.DeadlineExceeded):
		return apierr.TimedOut(err)
	}
	return apierr.NewError(http.StatusInternalServerError, apierr.CodeUnknown,
		"Something went wrong in the proxy. The log has more under request "+q.id.String()+".")
}

func (p *Proxy) renderError(q *request, e *apierr.Error) {
	body := make(map[string]any, len(e.Fields)+2)
	maps.Copy(body, e.Fields)
	body["errcode"], body["error"] = e.ErrCode, e.Public()
	maps.Copy(q.w.Header(), e.Header)
	status := e.Status
	if status < 400 || status > 599 {
		status = http.StatusInternalServerError
	}
	writeJSON(q, status, body)
}

// writeJSON writes a response of the proxy itself. Fields that cannot be marshalled are
// left out: the code and the text matter more.
func writeJSON(q *request, status int, body map[string]any) {
	raw, err := json.Marshal(body)
	if err != nil {
		raw = []byte(`{"errcode":"M_UNKNOWN","error":"Something went wrong in the proxy."}`)
		q.err = errors.Join(q.err, err)
	}
	h := q.w.Header()
	allowOrigins(h)
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	h.Set("Cache-Control", "no-store")
	q.w.WriteHeader(status)
	if _, err := q.w.Write(raw); err != nil && q.r.Method != http.MethodHead {
		q.err = errors.Join(q.err, errClientGone, err)
	}
}

// allowOrigins sets the headers of the Client-Server API, "Web Browser Clients".
func allowOrigins(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization")
}

// preflight answers the OPTIONS request of a browser for a request that is answered here.
func preflight(q *request) {
	allowOrigins(q.w.Header())
	q.w.Header().Set("Access-Control-Max-Age", strconv.Itoa(int((10 * time.Minute).Seconds())))
	q.w.WriteHeader(http.StatusNoContent)
}
