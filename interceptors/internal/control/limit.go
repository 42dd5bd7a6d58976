package control

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/attempts"
	"e2ee-proxy/internal/rediscache"
)

// Limits are how often a user may try what somebody with a stolen token might guess or break,
// by whatever way.
type Limits struct{ recovers, resets, exports, checkups, pictures *attempts.Limit }

// NewLimits returns limits of which nothing was used. Replicas with a Redis, shared, count
// together, also when an account has moved; nil is none.
func NewLimits(shared *rediscache.Cache) (*Limits, error) {
	l := &Limits{}
	for _, one := range []struct {
		limit    **attempts.Limit
		kind     rediscache.Kind
		burst    int
		interval time.Duration
	}{
		{&l.recovers, "recovers", recoverBurst, recoverInterval},
		{&l.resets, "resets", resetBurst, resetInterval},
		{&l.exports, "exports", exportBurst, exportInterval},
		{&l.checkups, "checkups", checkupBurst, checkupInterval},
		{&l.pictures, "pictures", pictureBurst, pictureInterval},
	} {
		made, err := attempts.New(shared, one.kind, one.burst, one.interval)
		if err != nil {
			return nil, err //nolint:wrapcheck // it says what it is about
		}
		*one.limit = made
	}
	return l, nil
}

// Recover counts an attempt to recover, or returns the error that refuses it.
func (l *Limits) Recover(ctx context.Context, user id.UserID) error {
	return take(ctx, l.recovers, user)
}

// Reset is Recover for a reset.
func (l *Limits) Reset(ctx context.Context, user id.UserID) error { return take(ctx, l.resets, user) }

// Keys is Recover for what is done with all keys.
func (l *Limits) Keys(ctx context.Context, user id.UserID) error { return take(ctx, l.exports, user) }

// Picture is Recover for a picture in which a code is looked for.
func (l *Limits) Picture(ctx context.Context, user id.UserID) error {
	return take(ctx, l.pictures, user)
}

// checkup is Recover for a checkup.
func (l *Limits) checkup(ctx context.Context, user id.UserID) error {
	return take(ctx, l.checkups, user)
}

// take counts an attempt, or returns the error that refuses it. A refused attempt does not
// count.
func take(ctx context.Context, limit *attempts.Limit, user id.UserID) error {
	if wait := limit.Take(ctx, string(user), time.Now()); wait > 0 {
		return apierr.LimitExceeded(wait.Round(time.Microsecond)) // the limiter calculates in floats
	}
	return nil
}
