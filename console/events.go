package console

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// streamLasts is how long a browser is told of changes before it asks again: its account must
	// be able to move to another replica.
	streamLasts = 50 * time.Second
	// lookEvery is how often it is looked what has changed of that which says nothing by itself.
	lookEvery = 5 * time.Second
)

// events tells a page that is looked at when it is out of date, as server-sent events. It is only
// for convenience: every page can be looked at again by hand.
func events(q *query) error {
	h := q.Writer.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(q.Writer)
	send := func(text string) error {
		if _, err := io.WriteString(q.Writer, text); err != nil {
			return err
		}
		return out.Flush()
	}
	if err := send("retry: 1000\n\n"); err != nil {
		return fmt.Errorf("tell a page of changes: %w", err)
	}
	ctx, cancel := context.WithTimeout(q.ctx, streamLasts)
	defer cancel()
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	withStatus := q.Request.URL.Query().Get("of") == "backup"
	last := q.fingerprint(ctx, withStatus)
	for {
		changed := q.device.WatchVerifications(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if err := send("event: change\ndata: verification\n\n"); err != nil {
				return nil //nolint:nilerr // the person has gone elsewhere
			}
		case <-ticks.C:
			lives, err := q.c.gate.Lives(ctx, q.session)
			if err != nil {
				return nil //nolint:nilerr // the browser asks again
			}
			now := q.fingerprint(ctx, withStatus)
			if now == last && lives {
				continue
			}
			last = now
			if err := send("event: change\ndata: state\n\n"); err != nil || !lives {
				return nil //nolint:nilerr // as above
			}
		}
	}
}

// fingerprint stands for what pages show that can change by itself. What cannot be read has not
// changed.
func (q *query) fingerprint(ctx context.Context, withStatus bool) [32]byte {
	shown := make([]any, 0, 2)
	if all, err := q.device.Warnings(ctx); err == nil {
		shown = append(shown, all)
	}
	if withStatus {
		if status, err := q.device.Status(ctx); err == nil {
			shown = append(shown, status.Backup)
		}
	}
	raw, err := json.Marshal(shown)
	if err != nil {
		return [32]byte{}
	}
	return sha256.Sum256(raw)
}
