package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
)

// Responses to the engine's own requests are decoded as a whole, so their size is bounded.
// Most are small; those that grow with an account (its sync, the members of a room, the
// devices of many users) may be large, but only a few of them are in memory at the same
// time, and one for each account.

const (
	// maxAnswer bounds an ordinary answer, in bytes.
	maxAnswer = 4 << 20
	// maxLargeAnswer bounds a large one.
	maxLargeAnswer = 64 << 20
	// largeAtOnce is how many answers of more than maxAnswer are in memory at the same time.
	largeAtOnce = 2
)

// ErrAnswerTooLarge means that an answer of the homeserver is larger than the engine takes.
var ErrAnswerTooLarge = errors.New("the homeserver's answer is too large")

// largeAnswers limits the large answers in memory.
type largeAnswers struct {
	all      chan struct{}
	accounts locks.Turns[id.UserID]
}

func newLargeAnswers() *largeAnswers { return &largeAnswers{all: make(chan struct{}, largeAtOnce)} }

// acquire waits until a large answer is allowed. The returned func releases it.
func (l *largeAnswers) acquire(ctx context.Context, user id.UserID) (func(), error) {
	giveTurn, err := l.accounts.Take(ctx, user)
	if err != nil {
		return nil, err
	}
	select {
	case l.all <- struct{}{}:
		return func() { <-l.all; giveTurn() }, nil
	case <-ctx.Done():
		giveTurn()
		return nil, context.Cause(ctx)
	}
}

// readAnswer reads and decodes a successful answer to r.
func (h *Homeserver) readAnswer(req *http.Request, resp *http.Response, r Request) error {
	limit := int64(maxAnswer)
	if r.Large {
		limit = maxLargeAnswer
	}
	failed := func(err error) error {
		return mautrix.HTTPError{Request: req, Response: resp, Message: "not read", WrappedError: err}
	}
	tooLarge := fmt.Errorf("%w: more than %d bytes", ErrAnswerTooLarge, limit)
	if resp.ContentLength > limit {
		return failed(tooLarge)
	}
	var in bytes.Buffer
	if resp.ContentLength > 0 && resp.ContentLength <= maxAnswer {
		in.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	if _, err := in.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return failed(err)
	}
	if in.Len() > maxAnswer {
		if !r.Large {
			return failed(tooLarge)
		}
		give, err := h.large.acquire(req.Context(), r.User)
		if err != nil {
			return failed(err)
		}
		defer give()
		if _, err := in.ReadFrom(io.LimitReader(resp.Body, limit+1-int64(in.Len()))); err != nil {
			return failed(err)
		}
		if int64(in.Len()) > limit {
			return failed(tooLarge)
		}
	}
	if r.Result == nil {
		return nil
	}
	if err := json.Unmarshal(in.Bytes(), r.Result); err != nil {
		return failed(fmt.Errorf("%w: it cannot be decoded", errBadAnswer)) // the decoder's error may quote the answer
	}
	return nil
}
