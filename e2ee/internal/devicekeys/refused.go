package devicekeys

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
)

// uploadTrial is the state of uploading the device's keys. It is guarded by the device's lock.
type uploadTrial struct {
	err      *wire.UpstreamError // the last refusal; nil when the last upload was accepted
	failures backoff.Pauses
	refusals int
	next     time.Time // no retry before this
}

// refusalsTold is the number of refusals in a row from which on the user is told: after the
// first, other one-time keys may be accepted.
const refusalsTold = 2

// refused reports whether the homeserver rejected a request for its content, so that
// repeating it is useless.
func refused(err error) (*wire.UpstreamError, bool) {
	var up *wire.UpstreamError
	if !errors.As(err, &up) || up.Status < 400 || up.Status >= 500 {
		return nil, false
	}
	switch up.Status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return nil, false
	}
	return up, true
}

// recordUpload records the result of an upload. The caller holds mu.
func (p *Publication) recordUpload(err error) {
	if err == nil {
		p.trial = uploadTrial{}
		return
	}
	if up, ok := refused(err); ok {
		p.trial.err = up
		p.trial.refusals++
		p.trial.next = p.Env.Now().Add(p.trial.failures.Next(core.UpkeepPauses()))
	}
}

// uploadStands returns the last refusal while it is too early to retry; otherwise every
// sync would upload again.
func (p *Publication) uploadStands() error {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.trial.refusals < refusalsTold || !p.Env.Now().Before(p.trial.next) {
		return nil
	}
	return fmt.Errorf("%w: %w", core.ErrKeysRefused, p.trial.err)
}

// Refusal returns the refusal of the device's keys, if the homeserver keeps refusing.
func (p *Publication) Refusal() *wire.UpstreamError {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.trial.refusals < refusalsTold {
		return nil
	}
	return p.trial.err
}
