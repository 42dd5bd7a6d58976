package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/ops"
)

// wordNotHomeserver is what /readyz says when something at the homeserver's address answers
// that is no homeserver.
const wordNotHomeserver = "not a homeserver"

// maxVersions is how much of the answer is read, in bytes.
const maxVersions = 256 << 10

// homeserverAnswers returns a probe that asks the homeserver for its versions.
func homeserverAnswers(cfg *config.Config, client *http.Client) func(context.Context) error {
	url := cfg.Homeserver.URL().JoinPath("/_matrix/client/versions").String()
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return fmt.Errorf("ask the homeserver for its versions: %w", err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("ask the homeserver for its versions: %w", err)
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxVersions))
		// Read to the end, so that the connection can be used again.
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return fmt.Errorf("ask the homeserver for its versions: %w", err)
		}
		return checkVersions(resp.StatusCode, body)
	}
}

// checkVersions returns an error if the answer is not a homeserver's. Statuses that a
// reverse proxy in front of one may send are no error here.
func checkVersions(status int, body []byte) error {
	var said struct {
		Versions []string `json:"versions"`
	}
	switch {
	case status >= http.StatusBadRequest && status != http.StatusNotFound && status != http.StatusMethodNotAllowed:
		return fmt.Errorf("ask the homeserver for its versions: it answered with status %d", status)
	case status == http.StatusOK && json.Unmarshal(body, &said) == nil && len(said.Versions) > 0:
		return nil
	}
	return &ops.WordedError{Word: wordNotHomeserver, Err: fmt.Errorf(
		"what answers at the address of the homeserver is no Matrix homeserver: /_matrix/client/versions gives status %d and no versions; "+
			"correct the setting homeserver (the right address is in /.well-known/matrix/client of the server's name)", status)}
}

// announcePauses returns the pauses between checks whether the proxy can serve.
func announcePauses() backoff.Range {
	return backoff.Range{First: 500 * time.Millisecond, Last: 10 * time.Second}
}

// logWhenReady waits until the proxy can serve, and logs it once.
func logWhenReady(ctx context.Context, ready *ops.Readiness, said *zerolog.Event) error {
	for failures := 1; ; failures++ {
		if ready.Check(ctx).Ready {
			said.Msg("ready to serve")
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(announcePauses().After(failures)):
		}
	}
}
