package sharedhistory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// takeBatch is how many keys of a bundle are stored at a time.
const takeBatch = 250

// Take downloads and takes the bundles that wait for it. What cannot be told or had at present
// is tried again; everything else is over with this.
func (h *History) Take(ctx context.Context) error {
	give, err := h.turns.Take(ctx, taking)
	if err != nil {
		return err
	}
	defer give()
	var failed error
	var tried []bundle
	for {
		a, b, ok, err := h.nextBundle(ctx, tried)
		if err != nil || !ok {
			return errors.Join(failed, err)
		}
		tried = append(tried, b)
		if err := h.takeOne(ctx, a, b); err != nil {
			failed = errors.Join(failed, err)
		}
	}
}

func (h *History) nextBundle(ctx context.Context, tried []bundle) (invite, bundle, bool, error) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if err := h.load(ctx); err != nil {
		return invite{}, bundle{}, false, err
	}
	a, b, ok := h.waiting.next(h.Env.Now(), tried)
	return a, b, ok, nil
}

// takeOne takes one bundle of an inviter's. With an error it stays. The homeserver is asked who
// the inviter is: until now it may have reported no changes of theirs.
func (h *History) takeOne(ctx context.Context, a invite, b bundle) error {
	known, err := h.Account.Tracker.Query(ctx, h.Query(), []id.UserID{a.By})
	switch {
	case err != nil:
		return fmt.Errorf("look up who shared history: %w", err)
	case known[a.By].Knowledge != trustcache.KnowledgeFresh:
		return errUnreachable
	case !trustcache.MayGiveHistory(b.From, known[a.By]):
		return h.finish(ctx, b, refused, nil, errSenderRefused)
	}
	free, err := h.bounds.take(ctx)
	if err != nil {
		return err
	}
	defer free()
	raw, err := h.download(ctx, b.File)
	switch {
	case gone(err):
		return h.finish(ctx, b, unusable, nil, err)
	case err != nil:
		return err
	}
	if err := b.File.DecryptInPlace(raw); err != nil {
		return h.finish(ctx, b, unusable, nil, err)
	}
	notes, err := h.keep(ctx, a, raw)
	switch {
	case errors.Is(err, errUnusable):
		return h.finish(ctx, b, unusable, nil, err)
	case err != nil:
		return err
	}
	return h.finish(ctx, b, taken, notes, nil)
}

// download reads a bundle: from the authenticated endpoint, and from the older one where the
// homeserver does not know that.
func (h *History) download(ctx context.Context, from file) ([]byte, error) {
	at, err := from.place()
	if err != nil {
		return nil, errUnusable
	}
	request := wire.Request{
		Op: "download a bundle of room keys", Method: http.MethodGet, Patient: filePatience,
		Path: mautrix.ClientURLPath{"v1", "media", "download", at.Homeserver, at.FileID},
	}
	var out bytes.Buffer
	read := func(body io.Reader) error {
		out.Reset()
		if n, err := out.ReadFrom(io.LimitReader(body, maxBundle+1)); err != nil {
			return err
		} else if n > maxBundle {
			return fmt.Errorf("%w: more than %d bytes", wire.ErrAnswerTooLarge, maxBundle)
		}
		return nil
	}
	err = h.Env.Homeserver.Stream(ctx, h.CurrentToken(), request, read)
	if wire.Unrecognized(err) {
		request.Path = mautrix.MediaURLPath{"v3", "download", at.Homeserver, at.FileID}
		err = h.Env.Homeserver.Stream(ctx, h.CurrentToken(), request, read)
	}
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// gone reports whether a file will not be had later either: homeservers delete media
// (requirement 17.7).
func gone(err error) bool {
	if errors.Is(err, wire.ErrAnswerTooLarge) || errors.Is(err, errUnusable) {
		return true
	}
	switch wire.Status(err) {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusGone, http.StatusRequestEntityTooLarge:
		return true
	}
	return false
}

// keep stores the keys of a bundle, and returns the reasons for those that are missing.
func (h *History) keep(ctx context.Context, a invite, raw []byte) ([]store.WithheldNote, error) {
	var rows []store.InboundSession
	flush := func() error {
		_, err := h.parts.Inbound.KeepKept(ctx, rows)
		rows = rows[:0]
		return err
	}
	r := &reader{room: a.Room, by: a.By, key: func(row store.InboundSession) error {
		if rows = append(rows, row); len(rows) < takeBatch {
			return nil
		}
		return flush()
	}}
	if err := r.read(raw); err != nil {
		if errors.Is(err, errUnusable) {
			return nil, errors.Join(err, flush())
		}
		return nil, err
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return h.newNotes(ctx, r)
}

// newNotes returns the reasons for keys that are not here in any part, and of which nothing was
// said before: the sender of a key knows better why it is withheld.
func (h *History) newNotes(ctx context.Context, r *reader) ([]store.WithheldNote, error) {
	notes := slices.DeleteFunc(r.notes, func(n store.WithheldNote) bool { return r.keys[n.SessionID] })
	if len(notes) == 0 {
		return nil, nil
	}
	refs := make([]store.SessionRef, len(notes))
	for i := range notes {
		refs[i] = notes[i].SessionRef
	}
	known, err := h.Env.Store.InboundSessions(ctx, h.Account.Row, h.RowID, refs)
	if err != nil {
		return nil, fmt.Errorf("load room keys: %w", err)
	}
	said, err := h.Env.Store.Withheld(ctx, h.Account.Row, h.RowID, refs)
	if err != nil {
		return nil, fmt.Errorf("load withheld notes: %w", err)
	}
	return slices.DeleteFunc(notes, func(n store.WithheldNote) bool {
		_, here := known[n.SessionRef]
		_, told := said[n.SessionRef]
		return here || told
	}), nil
}

// finish stores what became of a bundle. Everything before it can be repeated.
func (h *History) finish(ctx context.Context, b bundle, became result, notes []store.WithheldNote, why error) error {
	if err := h.recordDone(ctx, b, became, notes); err != nil {
		return err
	}
	if became == taken {
		h.count(resultTaken)
		return nil
	}
	h.count(resultRefused)
	h.Env.Log.Info().Err(why).Msg("The history that somebody shared is not taken")
	return nil
}

func (h *History) recordDone(ctx context.Context, b bundle, became result, notes []store.WithheldNote) error {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	s := h.Begin()
	s.Changes.Withheld = notes
	if err := h.change(ctx, s, func(w *waiting) bool { w.expire(h.Env.Now()); w.done(&b, became); return true }); err != nil {
		return err
	}
	return s.Commit(ctx, "what became of shared history")
}
