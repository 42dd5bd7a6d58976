package interceptors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/parallel"
)

// What the proxy adds to a sync response is shown with a token of the homeserver's that is new to
// the client, and with no other: the tokens are all that says what a client has, and some clients
// drop a response whose token they know. While there is something for the client, and the
// homeserver's token stands still, the engine has it move (e2ee.ClientSync.Move), by which the
// sync that waits at the homeserver ends. If it does not move, the client is answered without, and
// nothing is lost: it is shown with the next token that is new.

const (
	// moveWait is how long a sync is given to end with another token, if its client does not want
	// to wait for longer.
	moveWait = 3 * time.Second
	// soon is how long a client that does not want to wait waits for a move that has its turn.
	soon = 2 * time.Second
	// moveStep is how often it is looked at most whether a move has its turn.
	moveStep = 50 * time.Millisecond
)

// errStands is a response with a token with which the client cannot be given what there is for it.
var errStands = errors.New("the homeserver's token stands still")

// upstream sends the sync to the homeserver. When something is there for the client, or arrives
// meanwhile, the homeserver's token is moved.
func (h *syncHandler) upstream(x *Exchange, dev Device, in ClientSync, since string, query url.Values) (*http.Response, error) {
	asked, err := strconv.ParseInt(query.Get("timeout"), 10, 64)
	known := err == nil
	if known {
		asked = min(asked, h.opt.MaxTimeout.Milliseconds())
		query.Set("timeout", strconv.FormatInt(asked, 10))
	}
	news := in.Waiting() && !in.Leaving() && since != ""
	switch {
	case news && asked <= 0 && in.MoveIn() <= soon:
		query.Set("timeout", strconv.FormatInt(moveWait.Milliseconds(), 10))
	case news && asked > 0:
	case in.Waiting():
		return atOnce(x, query)
	case known && asked <= 0:
		return x.Upstream.Do(x, Change{Query: query})
	}
	resp, err := doMoving(x, dev, in, Change{Query: query}, moveWish{first: since == "", news: news, hurry: asked <= 0})
	if errors.Is(err, errArrived) {
		return atOnce(x, query)
	}
	return resp, err
}

// atOnce sends the sync without waiting.
func atOnce(x *Exchange, query url.Values) (*http.Response, error) {
	query.Set("timeout", "0")
	return x.Upstream.Do(x, Change{Query: query})
}

// moved moves the token, and sends the sync again. Synapse answers what it was asked before from
// memory, also without since; the timeout makes another question of it.
func (h *syncHandler) moved(x *Exchange, dev Device, in ClientSync, since string, query url.Values) (*http.Response, error) {
	first := since == ""
	if first { // its answer does not wait
		if err := in.Move(x.Request.Context()); err != nil {
			zerolog.Ctx(x.Request.Context()).Debug().Err(err).Msg("The homeserver's token was not moved; what there is for the client waits")
		}
	}
	query.Set("timeout", strconv.FormatInt(moveWait.Milliseconds()+time.Now().UnixMilli()%1000, 10))
	resp, err := doMoving(x, dev, in, Change{Query: query}, moveWish{first: first, news: !first, hurry: true})
	if errors.Is(err, errArrived) {
		return atOnce(x, query)
	}
	return resp, err
}

// stands returns errStands if a response lacks something that there is for the client, because of
// its token, and that may be moved.
func stands(x *Exchange, in exchange.ClientEvents, lacks func(context.Context) (bool, error), again bool) error {
	if in.Leaving() {
		return nil
	}
	switch lacking, err := lacks(x.Request.Context()); {
	case err != nil:
		return engineerr.For(fmt.Errorf("look for what there is for the client: %w", err))
	case !lacking:
		return nil
	case again:
		in.Stood()
	case in.MoveIn() <= soon:
		return errStands
	}
	return nil
}

// doMoving is like Do. When there is news, now or later, it has the token move, so that the
// homeserver answers. It returns errArrived when something arrives that needs no other token, and
// also when the token cannot be moved soon and the client does not want to wait.
func doMoving(x *Exchange, dev Device, in exchange.ClientEvents, c Change, w moveWish) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(x.Request.Context())
	m := &mover{moveWish: w, dev: dev, in: in, ctx: ctx, request: x.Request.Context(), end: cancel, ended: make(chan struct{})}
	stop := func() bool { return false }
	if w.news {
		go m.run()
	} else {
		stop = context.AfterFunc(in.Arrived(), m.run)
	}
	finish := sync.OnceFunc(func() {
		cancel(nil)
		if !stop() {
			<-m.ended
		}
	})
	sub := *x
	sub.Request = x.Request.WithContext(ctx)
	resp, err := x.Upstream.Do(&sub, c)
	if !m.settle() { // the answer came too late
		if err == nil {
			err = resp.Body.Close()
		}
		finish()
		return nil, errors.Join(errArrived, err)
	}
	if err != nil {
		finish()
		return nil, err
	}
	resp.Body = &movingBody{resp.Body, finish}
	return resp, nil
}

// movingBody ends what sees to it that the token moves when the body is closed.
type movingBody struct {
	io.ReadCloser
	finish func()
}

func (b *movingBody) Close() error {
	defer b.finish()
	return b.ReadCloser.Close()
}

// moveWish is when the token is to be moved.
type moveWish struct {
	first bool // the client has no token
	news  bool // there is something for it already
	hurry bool // it does not want to wait
}

// mover has the token move while a sync waits at the homeserver.
type mover struct {
	moveWish
	dev     Device
	in      exchange.ClientEvents
	ctx     context.Context //nolint:containedctx // of the sync at the homeserver
	request context.Context //nolint:containedctx // of the client's request
	end     context.CancelCauseFunc
	ended   chan struct{}
	settled atomic.Bool // the sync was answered, or was ended
}

// settle reports whether the sync was neither answered nor ended before. The body of an answer is
// not cut off any more.
func (m *mover) settle() bool { return !m.settled.Swap(true) }

// atOnce ends the sync, so that it is sent again without waiting.
func (m *mover) atOnce() {
	if m.settle() {
		m.end(errArrived)
	}
}

// run is called once something is there, and returns when the sync ends.
func (m *mover) run() {
	defer close(m.ended)
	if err := parallel.Try(func() error { m.move(); return nil }); err != nil {
		zerolog.Ctx(m.request).Error().Err(err).Msg("What there is for the client waits")
		m.atOnce()
	}
}

// move is run without its end.
func (m *mover) move() {
	for sent := false; m.ctx.Err() == nil; {
		arrived := m.dev.Arrivals()
		if m.in.Leaving() || !m.wants() {
			m.atOnce()
			return
		}
		wait := m.in.MoveIn()
		switch {
		case wait <= 0 && sent:
			m.in.Stood()
			sent = false
		case wait <= 0:
			err := m.in.Move(m.request)
			if sent = err == nil; !sent && m.ctx.Err() == nil {
				zerolog.Ctx(m.request).Debug().Err(err).Msg("The homeserver's token was not moved; what there is for the client waits")
			}
		case m.hurry && !sent && wait > soon:
			m.atOnce()
			return
		}
		timer := time.NewTimer(max(wait, moveStep))
		select {
		case <-m.ctx.Done():
		case <-arrived.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wants reports whether there is something that needs another token.
func (m *mover) wants() bool {
	if m.first || m.news {
		return m.news
	}
	news, err := m.in.News(m.ctx)
	m.news = err == nil && news
	return m.news
}
