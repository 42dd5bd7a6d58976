package testproc

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Await calls done again and again until it returns nil, and returns its last error when
// the context ends. The pauses grow, because each call takes time from what is awaited.
func Await(ctx context.Context, done func(ctx context.Context) error) error {
	const first, most = 4 * time.Millisecond, 128 * time.Millisecond
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	for next := first; ; next = min(2*next, most) {
		err := done(ctx)
		if err == nil {
			return nil
		}
		pause.Reset(next)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-pause.C:
		}
	}
}

// Answers returns a condition for [Await]: the URL answers 200.
func Answers(url string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	}
}
