package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Rules of this file:
//   - There is no deadline on a whole request or response: a long poll is silent for as
//     long as its client likes, and an upload takes as long as its line needs. There are
//     deadlines on every part of them that has to move (recorder, body). Of HTTP/2 they are
//     taken away in between: there a deadline that passes ends the request, whoever waits.
//   - On shutdown, requests that change something are finished; those that only wait are
//     ended.

// Deadlines are the deadlines of connections and bodies. The zero value of a field means
// its default.
type Deadlines struct {
	// Header is for a request's header; default 15 s.
	Header time.Duration
	// KeepAlive is how long an idle connection is kept; default 2 min.
	KeepAlive time.Duration
	// Idle is how long a body may make no progress, in either direction, on the client's side
	// or the homeserver's; default 60 s.
	Idle time.Duration
	// Drain is how long requests in flight may take to finish at shutdown; default 30 s.
	Drain time.Duration
}

func (d Deadlines) withDefaults() Deadlines {
	set := func(to *time.Duration, v time.Duration) {
		if *to == 0 {
			*to = v
		}
	}
	set(&d.Header, 15*time.Second)
	set(&d.KeepAlive, 2*time.Minute)
	set(&d.Idle, 60*time.Second)
	set(&d.Drain, 30*time.Second)
	return d
}

// server makes the server of Serve. With TLS it speaks HTTP/2 too, on whose connections the
// client must take something of what is sent within Deadlines.Idle.
func (p *Proxy) server(requests context.Context) *http.Server {
	server := &http.Server{
		Handler:           p,
		ReadHeaderTimeout: p.deadlines.Header,
		IdleTimeout:       p.deadlines.KeepAlive,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          p.discard,
		BaseContext:       func(net.Listener) context.Context { return requests },
		Protocols:         new(http.Protocols),
		TLSConfig:         p.tls,
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: p.deadlines.Idle},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(p.tls != nil)
	return server
}

// maxHeader is the largest header of a request, in bytes: an inline sync filter in the
// query can be long, and a token of a megabyte gets a proper 401.
const maxHeader = 1 << 20

// Serve answers the connections of ln until ctx is done, then drains: it takes no new
// connection, ends parked long polls, and waits for the rest to finish. When
// Deadlines.Drain has passed, what is left is cut off and the error says so. Serve returns
// when no handler of its requests runs any more. The Proxy cannot serve again afterwards;
// [Proxy.Close] ends it.
func (p *Proxy) Serve(ctx context.Context, ln net.Listener) error {
	return p.serveOn(ctx, ln, p, &p.active)
}

// serveOn does that for one listener.
func (p *Proxy) serveOn(ctx context.Context, ln net.Listener, h http.Handler, active *sync.WaitGroup) error {
	// A closed connection does not end the context of a handler that has not read its
	// request's body; this does.
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := p.server(requests)
	server.Handler = h
	ln = p.announced(ln)
	return p.serveUntil(ctx, server, cut, active, func() error {
		if p.tls != nil {
			return server.ServeTLS(ln, "", "")
		}
		return server.Serve(ln)
	})
}

// serveUntil runs a server until ctx is done, and drains it. cut ends what is left of its
// requests, which active counts.
func (p *Proxy) serveUntil(ctx context.Context, server *http.Server, cut func(), active *sync.WaitGroup, serve func() error) error {
	served := make(chan error, 1)
	go func() { served <- serve() }() // ends with Shutdown or Close below
	select {
	case err := <-served:
		p.Drain()
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	p.Drain()
	finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.deadlines.Drain)
	defer cancel()
	err := server.Shutdown(finishing)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain: %w", err), server.Close())
		cut()
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve: %w", serr))
	}
	active.Wait()
	return err
}

// Close waits for what requests have begun, and closes connections to the homeserver. It is
// called when there are no requests any more, those of other processes of the cluster included.
func (p *Proxy) Close() {
	p.identities.wait()
	p.closeIdle()
}

// Drain ends parked long polls, now and from now on. Serve calls it when its context ends.
func (p *Proxy) Drain() { p.drain() }

// Draining reports whether the proxy is shutting down; it is not ready then.
func (p *Proxy) Draining() bool { return p.draining.Err() != nil }
