package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/parallel"
)

// GET /sync, for devices whose encryption the proxy does; others pass through.
//
// Upstream: the filter is made wider (see package filter) and timeout is capped; when the proxy
// has something for the client it sees to it that the sync ends, see sync_move.go. The other
// parameters stay as they are.
//
// The response is spooled while it is scanned. What matters to encryption is committed, and
// only then is the response released (requirement 5.3), changed as follows:
//
//   - Encrypted events are opened; in encrypted rooms so are plain ones that should have
//     been encrypted, with their order relative to the room's encryption.
//     What cannot be read is kept, unless clients could take it for something that it is
//     not.
//   - A client's first sync waits for a moment for keys from the account's backup.
//   - m.room.encryption is hidden, unless the options say otherwise.
//   - Members that only the proxy may add are removed wherever the homeserver put them.
//   - to_device keeps only what is not encryption traffic. device_lists,
//     device_one_time_keys_count and device_unused_fallback_key_types are removed: the
//     client shall see no reason to upload keys (requirement 4.9).
//   - Events whose keys came late are put in front of their room's timeline.
//   - The numbers of unread messages of encrypted rooms are those of a client with encryption,
//     see package unread of the engine.
//   - Warnings are added, also as notices behind the timelines of the rooms concerned. What
//     imitates one is removed, see notices.go.
//   - The client's filter is applied to what is shown.
//
// An error response passes unchanged. A response that is not JSON, or not a sync response,
// becomes 502, and nothing is committed.

const defaultMaxTimeout = 60 * time.Second

// errArrived ends a sync that waits at the homeserver because there is something for
// the client now.
var errArrived = errors.New("something arrived for the client")

// syncHandler is the handler of GET /sync. It is shared by all requests.
type syncHandler struct {
	opt      SyncOptions
	rewriter *rewrite.Rewriter
	parts    []partOfState // of the places of a response
	filters  *filter.Chooser
}

// NewSync returns the handler of GET /sync.
func NewSync(opt SyncOptions) (Handler, error) {
	if opt.MaxTimeout == 0 {
		opt.MaxTimeout = defaultMaxTimeout
	}
	opt = opt.withSpools()
	filters, err := filter.NewChooser(rewrite.AnnotationPaths()...)
	if err != nil {
		return nil, err
	}
	shape, parts := syncShape()
	h := &syncHandler{opt: opt, rewriter: rewrite.New(shape, opt.rewriting()), parts: parts, filters: filters}
	return h.serve, nil
}

func (h *syncHandler) serve(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		return passSync(x, dev)
	}
	query := syncQuery(x.Request)
	token := query.Get("since")
	since := e2ee.PlainToken(token)
	pick, err := h.filters.Choose(x, query.Get("filter"), since == "")
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if pick.Answer != nil {
		return x.RelayAndClose(pick.Answer)
	}
	if pick.Param != "" {
		query.Set("filter", pick.Param)
	}
	var in ClientSync
	err = onOwnStack(func() error {
		var err error
		in, err = dev.BeginSync(x.Request.Context(), token)
		return err //nolint:wrapcheck // it is wrapped below
	})
	if err != nil {
		return engineerr.For(fmt.Errorf("begin sync: %w", err))
	}
	defer in.End()
	resp, err := h.upstream(x, dev, in, since, query)
	for again := false; ; again = true {
		if err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		if resp.StatusCode != http.StatusOK {
			pick.Forget()
			return x.RelayAndClose(resp)
		}
		if pick.Broken {
			_ = resp.Body.Close() // nothing of it is used
			return apierr.BadJSON("The filter cannot be read.")
		}
		if err = h.answer(x, dev, in, since, pick.Filter, resp, again); !errors.Is(err, errStands) {
			return err //nolint:wrapcheck // it is for the client
		}
		resp, err = h.moved(x, dev, in, since, query)
	}
}

// onOwnStack runs f on a stack of its own, and returns when it has. A database makes the stack of
// who asks it grow, and a request that waits afterwards would keep that for as long as it waits.
func onOwnStack(f func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- parallel.Try(f) }()
	return <-ended
}

// syncQuery returns the query for upstream, still without filter and timeout. Parameters
// with a meaning here occur once, so that the homeserver cannot read them otherwise.
func syncQuery(r *http.Request) url.Values {
	query := r.URL.Query()
	query.Del("access_token")
	for name, values := range query {
		if len(values) > 1 {
			query[name] = values[:1]
		}
	}
	return query
}

// answer reads a sync response, commits what matters to encryption, and answers with the
// rest. Unless it is done again, it returns errStands, and has done nothing, when the response
// has a token with which the client cannot be given what there is for it.
func (h *syncHandler) answer(x *Exchange, dev Device, in ClientSync, since string, filter *filter.Filter, resp *http.Response, again bool) (err error) {
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	update := &syncUpdate{parts: h.parts, who: x.Identity.UserID, held: heldUpdate{from: h.opt.UpdateMemory, owner: string(x.Identity.UserID)}}
	update.Since = since
	update.unread.known, update.unread.split = dev.KnownEncrypted, filter.SplitsThreads()
	defer update.held.release()
	pass := rewrite.Pass{Owner: x.Identity.UserID, Size: resp.ContentLength, Filter: filter, Hooks: update.hooks()}
	if since != "" {
		pass.Rest = e2ee.OrderAfter
	}
	body, err := h.rewriter.Read(resp.Body, pass)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if update.NextBatch == "" {
		return rewrite.Unreadable(errSyncBody)
	}
	lacks := func(ctx context.Context) (bool, error) { return in.Stands(ctx, update.NextBatch) }
	if err := stands(x, in, lacks, again); err != nil {
		return err
	}
	if since != "" { // new events of a room that was encrypted before are not older than its encryption
		if err := body.ForgetKnown(x.Request.Context(), dev); err != nil {
			return err
		}
	}
	extras, err := in.Commit(x.Request.Context(), update.SyncUpdate)
	if err != nil {
		return engineerr.For(fmt.Errorf("commit sync response: %w", err))
	}
	if x.Request.URL.Query().Get("full_state") == "true" {
		if extras.Control, err = withState(x, dev, extras.Control); err != nil {
			return err
		}
	}
	added := newSyncAdded(body, filter, update, in, extras)
	out := rewrite.Output{Device: dev, Redeliver: true, Hold: since != "", Added: added.at}
	if !out.Hold {
		out.Wait = h.opt.KeyWait
	}
	if err := body.Relay(x, resp, out); err != nil {
		return err
	}
	if added.control.shows > 0 {
		dev.ControlRoom().Give(0, added.control.shows)
	}
	return nil
}
