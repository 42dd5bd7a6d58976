package rediscache

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"e2ee-proxy/internal/backoff"
)

const (
	// beatEvery is how often a process sends a beat to itself, and looks whether a Redis that did
	// not answer does again.
	beatEvery = time.Second
	// maxSilence is how long no own beat may come before the connection counts as dead. A
	// connection to a server that is no longer the master stays open and quiet.
	maxSilence = 4 * time.Second
	// receiveWait is how long one read waits.
	receiveWait = time.Second
)

var (
	// errSilent means that the connection is open, and nothing comes.
	errSilent = errors.New("own beats do not come back")
	// errTwice means that the client subscribed again by itself.
	errTwice = errors.New("the subscription was made anew")
)

// Run listens to the other replicas until ctx is done. Until it is called, and whenever Redis
// cannot be heard, nothing is found.
func (c *Cache) Run(ctx context.Context) error {
	if c == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { c.listen(ctx); return nil })
	group.Go(func() error { c.beat(ctx); return nil })
	return group.Wait()
}

// listen subscribes again whenever the subscription ends.
func (c *Cache) listen(ctx context.Context) {
	var pauses backoff.Pauses
	for ctx.Err() == nil {
		began := c.now()
		why := c.subscribed(ctx)
		if ctx.Err() != nil {
			why = nil // this process ends
		}
		c.stopHearing(why)
		if c.now().Sub(began) > time.Minute {
			pauses.Reset()
		}
		pause := time.NewTimer(pauses.Next(backoff.Range{First: 100 * time.Millisecond, Last: 5 * time.Second}))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// subscribed reads one subscription until it ends. The client's own way of subscribing again
// without saying so is not used: what was said meanwhile would be missed.
func (c *Cache) subscribed(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errNotRedis // the client's code takes apart what the server says
		}
	}()
	sub := c.client.Subscribe(ctx, c.channel())
	defer func() { _ = sub.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer stop()
	for began := c.now(); ; {
		got, err := sub.ReceiveTimeout(ctx, receiveWait)
		var timeout net.Error
		if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout() || ctx.Err() != nil) {
			return err
		}
		switch got := got.(type) {
		case *redis.Subscription:
			if !c.subscribe() {
				return errTwice
			}
			c.sendBeat(ctx)
		case *redis.Message:
			c.heard(got.Payload)
		}
		if c.silent(began) {
			return errSilent
		}
	}
}

// subscribe notes that the subscription stands, unless one did before.
func (c *Cache) subscribe() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hearing.subscribed.IsZero() {
		return false
	}
	c.hearing.subscribed = c.now()
	return true
}

// silent reports whether no own beat came for too long, on a subscription that began then.
func (c *Cache) silent(began time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := began
	if c.hearing.beatAt.After(began) {
		last = c.hearing.beatAt
	}
	return c.now().Sub(last) > maxSilence
}

// beat sends beats, and looks whether Redis is back.
func (c *Cache) beat(ctx context.Context) {
	again := time.NewTicker(beatEvery)
	defer again.Stop()
	for {
		if !c.breaker.allows() {
			if err := c.bounded(ctx, func(ctx context.Context) error { return c.client.Ping(ctx).Err() }); err == nil {
				c.breaker.succeeded()
				c.log.Info().Msg("Redis answers again")
			}
		}
		if c.sendBeat(ctx) {
			c.tellUntold(ctx)
		}
		c.mu.Lock()
		c.hearing.turn(c.now())
		c.mu.Unlock()
		c.metrics.up(c.breaker.allows())
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}
