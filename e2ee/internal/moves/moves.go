package moves

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/backoff"
)

// maxTold is of how many tokens it is known that the device's client was given them.
const maxTold = 6

const (
	// every is how often a token is moved at most, after the first atOnce.
	every  = time.Second
	atOnce = 10
	// Takes is how long a move may take. Meanwhile no other is made from the same token.
	Takes = 2 * time.Second
)

// ErrNot means that the token is not moved at the moment.
var ErrNot = errors.New("the homeserver's token was moved a moment ago, or does not move")

// State is what is known of a device's tokens. The device's lock guards it.
type State struct {
	told [maxTold]uint64 // by digest, the newest first

	allowed  time.Time // when one more move is, less what may be made at once
	from     uint64    // the last was made from it
	at       time.Time
	waits    bool // that one was not seen yet
	failures backoff.Pauses
	retry    time.Time // no sooner, after a failure
}

// digest returns what stands for a token.
func digest(token string) uint64 {
	sum := sha256.Sum256([]byte(token))
	return binary.BigEndian.Uint64(sum[:])
}

// Tell records that the client is given a token, and reports whether it was before.
func (s *State) Tell(token string) (before bool) {
	if before = s.Told(token); !before {
		copy(s.told[1:], s.told[:])
		s.told[0] = digest(token)
	}
	return before
}

// Told reports whether the client was given a token.
func (s *State) Told(token string) bool { return slices.Contains(s.told[:], digest(token)) }

// In returns for how long no move may be made from a token.
func (s *State) In(from string, now time.Time) time.Duration {
	wait := max(s.allowed.Sub(now), s.retry.Sub(now), 0)
	if s.waits && s.from == digest(from) {
		wait = max(wait, s.at.Add(Takes).Sub(now))
	}
	return wait
}

// Begin records that a move is made; ErrNot if none may be.
func (s *State) Begin(from string, now time.Time) error {
	if s.In(from, now) > 0 {
		return ErrNot
	}
	if first := now.Add(-(atOnce - 1) * every); s.allowed.Before(first) {
		s.allowed = first
	}
	s.allowed = s.allowed.Add(every)
	s.from, s.at, s.waits = digest(from), now, true
	return nil
}

// Failed records that the homeserver did not do it, or that its token stood still.
func (s *State) Failed(err error, now time.Time) {
	s.waits = false
	s.retry = now.Add(core.PauseAfter(err, s.failures.Next(core.MovePauses()), core.MovePauses()))
}

// Came records that the message has come that moves the token.
func (s *State) Came() {
	if s.waits {
		s.waits = false
		s.failures.Reset()
		s.retry = time.Time{}
	}
}
