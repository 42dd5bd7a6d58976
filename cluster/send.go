package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"e2ee-proxy/store"
)

// Rules of this file:
//   - The target of a request travels in a header of its own, as it was judged; the path is
//     always the same, and so nothing on the way can take it for another.
//   - Nothing is sent before the other side has shown that it belongs to the cluster.
//   - An answer without the mark of a replica is none.

const (
	pathHello   = "/v1/hello"
	pathForward = "/v1/forward"
	pathCall    = "/v1/call/"
)

// The headers between replicas. Nobody else sees them.
const (
	headerPrefix  = "E2ee-Proxy-Cluster-"
	headerProof   = headerPrefix + "Proof"
	headerNonce   = headerPrefix + "Nonce"
	headerTo      = headerPrefix + "To" // the replica that is meant: addresses are used again
	headerFrom    = headerPrefix + "From"
	headerRequest = headerPrefix + "Request"
	headerTarget  = headerPrefix + "Target"
	headerAgain   = headerPrefix + "Again"
	headerHost    = headerPrefix + "Host"
	headerClient  = headerPrefix + "Client" // address and port of who connected to the sender
	headerResult  = headerPrefix + "Result"
)

// Forwarded says of a request what its header does not.
type Forwarded struct {
	// RequestID names it in the logs of both replicas.
	RequestID string
	// Again reports whether it may have been done already, by a replica that ended before it
	// answered.
	Again bool
	// Target is the path with its query, rebuilt from the endpoint that was judged.
	Target string
	// Host is the client's Host header, Client its address and port.
	Host, Client string
}

var (
	// ErrUnreached means that there was no connection to a replica: it got nothing.
	ErrUnreached = errors.New("the replica cannot be reached")
	// ErrMoved means that a replica says that the account is not its own: it has done nothing.
	ErrMoved = errors.New("the replica does not have the account")
	// ErrBroken means that a replica did not answer, and may have done what it was asked.
	ErrBroken = errors.New("the replica ended before it answered")
)

// IsMoving reports whether an error says that an account is not where it was thought to be, or
// will not be any more: then it is to be looked again where it is.
func IsMoving(err error) bool {
	for _, kind := range []error{ErrUnsettled, ErrMoved, ErrUnreached, ErrBroken, store.ErrElsewhere, store.ErrNotOwner} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// Send sends a request to the replica that owns its account and returns the answer, whose body
// the caller closes. The request has its method, header, body and context; the header is
// changed. A body that is large, or of unknown length, is sent when the replica asks for it. The
// request ends when the replica is not among the live ones any more. The error is [ErrUnreached],
// [ErrMoved], [ErrBroken] or [ErrStranger], or the context's cause.
func (n *Node) Send(req *http.Request, to store.Replica, f Forwarded) (*http.Response, error) {
	h := req.Header
	h.Set(headerTarget, f.Target)
	h.Del(headerAgain)
	if f.Again {
		h.Set(headerAgain, "1")
	}
	h.Set(headerHost, f.Host)
	h.Set(headerClient, f.Client)
	if req.Body != nil && req.GetBody == nil {
		h.Set("Expect", "100-continue")
	} else {
		h.Del("Expect")
	}
	return n.exchange(req, to, pathForward, f.RequestID)
}

// exchange sends a request whose method, header, body and context are set.
func (n *Node) exchange(req *http.Request, to store.Replica, path, requestID string) (*http.Response, error) {
	p := n.peer(to)
	if p == nil || p.gone.Err() != nil {
		closeBody(req)
		n.count(resultUnreached)
		return nil, fmt.Errorf("%w: %w", ErrUnreached, errGone)
	}
	if err := n.prove(req.Context(), p); err != nil {
		closeBody(req)
		return nil, n.failed(req.Context(), err)
	}
	target, err := url.Parse(p.Advertise + path)
	if err != nil {
		closeBody(req)
		return nil, fmt.Errorf("%w: its URL is none", ErrStranger)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(p.gone, func() { cancel(errGone) })
	end := func() { stop(); cancel(nil) }
	out := req.WithContext(ctx)
	out.URL, out.Host, out.RequestURI = target, target.Host, ""
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1 // or nothing would be asked before it is sent
	h := out.Header
	h.Set(headerTo, p.Name)
	h.Set(headerFrom, n.name())
	h.Set(headerRequest, requestID)
	h.Set(headerProof, p.proof)
	h.Del(headerResult)
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // so that the transport adds none
	}
	resp, err := n.client.RoundTrip(out)
	if err != nil {
		err = n.failed(req.Context(), err)
		end()
		return nil, err
	}
	if err := n.judge(resp); err != nil {
		_ = resp.Body.Close()
		end()
		return nil, err
	}
	resp.Body = &endingBody{resp.Body, end}
	return resp, nil
}

// closeBody closes the body of a request that is not sent, as a transport does.
func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// failed counts a failure, and returns its kind.
func (n *Node) failed(ctx context.Context, err error) error {
	var dial *dialError
	switch {
	case ctx.Err() != nil:
		n.count(resultLeft)
		return fmt.Errorf("wait for the replica: %w", context.Cause(ctx))
	case errors.Is(err, ErrStranger):
		n.count(resultRefused)
		return err
	case errors.As(err, &dial):
		n.count(resultUnreached)
		return fmt.Errorf("%w: %w", ErrUnreached, dial.err)
	}
	n.count(resultBroken)
	return fmt.Errorf("%w: %w", ErrBroken, withoutURL(err))
}

// judge looks for the mark of a replica in an answer, and removes it.
func (n *Node) judge(resp *http.Response) error {
	result := resp.Header.Get(headerResult)
	removeOwn(resp.Header)
	switch result {
	case resultAnswered:
		n.count(resultAnswered)
		return nil
	case resultMoved:
		n.count(resultMoved)
		return ErrMoved
	case resultBroken:
		n.count(resultBroken)
		return ErrBroken
	}
	n.count(resultRefused)
	return fmt.Errorf("%w: it answered %d without saying that it is a replica", ErrStranger, resp.StatusCode)
}

func (n *Node) count(result string) { n.o.Metrics.forwarded.WithLabelValues(result).Inc() }

// removeOwn removes the headers between replicas.
func removeOwn(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, headerPrefix) {
			delete(h, name)
		}
	}
}

// endingBody calls end when it is closed.
type endingBody struct {
	io.ReadCloser
	end func()
}

func (b *endingBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err //nolint:wrapcheck // it is the body's
}

// withoutURL removes the URL from an error, and with it what the database says where a replica is.
func withoutURL(err error) error {
	if with, ok := errors.AsType[*url.Error](err); ok {
		return with.Err
	}
	return err
}
