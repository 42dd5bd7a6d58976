package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// Homeserver makes the engine's own requests.
type Homeserver struct {
	base    *url.URL
	client  *http.Client
	timeout time.Duration
	large   *largeAnswers
}

// NewHomeserver returns a homeserver whose calls end after timeout and Request.Patient.
func NewHomeserver(base *url.URL, client *http.Client, timeout time.Duration) *Homeserver {
	return &Homeserver{base: base, client: client, timeout: timeout, large: newLargeAnswers()}
}

// Request is one call. Body is marshalled unless nil; Result receives the answer unless nil.
type Request struct {
	Op     string
	Method string
	Path   mautrix.PrefixableURLPath
	Query  map[string]string
	Body   any
	Result any
	// File is a body that is sent as it is, by [Homeserver.Stream].
	File []byte
	// Large means that the answer grows with the account of User. See answers.go.
	Large bool
	User  id.UserID
	// Patient is added to the timeout, for long polls.
	Patient time.Duration
}

// Call sends a request with a token. Every error is an *UpstreamError.
func (h *Homeserver) Call(ctx context.Context, token secret.String, r Request) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout+r.Patient)
	defer cancel()
	quiet := zerolog.Nop()
	ctx = quiet.WithContext(ctx) // the client logs whole URLs otherwise
	cli := &mautrix.Client{
		HomeserverURL:   h.base,
		AccessToken:     token.Reveal(),
		Client:          h.client,
		Log:             zerolog.Nop(),
		IgnoreRateLimit: true,
	}
	body, headers := r.Body, http.Header(nil)
	raw, encoded := r.Body.(json.RawMessage)
	if encoded { // it is encoded already
		body, headers = nil, http.Header{"Content-Type": {"application/json"}}
	}
	contents, resp, err := cli.MakeFullRequestWithResp(ctx, mautrix.FullRequest{
		Method:           r.Method,
		URL:              cli.BuildURLWithQuery(r.Path, r.Query),
		RequestJSON:      body,
		RequestBytes:     raw,
		Headers:          headers,
		SensitiveContent: true,
		MaxAttempts:      1,
		Handler: func(req *http.Request, resp *http.Response, _ any, _ int64) ([]byte, error) {
			return nil, h.readAnswer(req, resp, r)
		},
	})
	if err == nil {
		return nil
	}
	return upstreamError(r.Op, resp, contents, err)
}

// Stream is Call for bodies that are no JSON in memory: it sends File, and read gets the body of
// the answer.
func (h *Homeserver) Stream(ctx context.Context, token secret.String, r Request, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout+r.Patient)
	defer cancel()
	cli := &mautrix.Client{HomeserverURL: h.base, Log: zerolog.Nop()}
	var file io.Reader
	if r.File != nil {
		file = bytes.NewReader(r.File) // of which the length is known: homeservers demand it
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, cli.BuildURLWithQuery(r.Path, r.Query), file)
	if err != nil {
		return &UpstreamError{Op: r.Op, Cause: errNoAnswer}
	}
	if r.File != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	resp, err := h.client.Do(req)
	if err != nil {
		return upstreamError(r.Op, nil, nil, err)
	}
	defer func() { _ = resp.Body.Close() }() // an error shows when the body is read
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		var said mautrix.RespError
		_ = json.Unmarshal(body, &said) // a body that is no Matrix error still has a status
		return upstreamError(r.Op, resp, body, mautrix.HTTPError{Response: resp, RespError: &said})
	}
	if err := read(resp.Body); err != nil {
		if ctx.Err() != nil {
			return upstreamError(r.Op, nil, nil, ctx.Err())
		}
		return fmt.Errorf("%s: %w", r.Op, err)
	}
	return nil
}

// upstreamError keeps only those parts of an error that may be shown.
func upstreamError(op string, resp *http.Response, body []byte, err error) *UpstreamError {
	out := &UpstreamError{Op: op}
	var httpErr mautrix.HTTPError
	if resp == nil || !errors.As(err, &httpErr) {
		out.Cause = errNoAnswer
		for _, known := range []error{context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, known) {
				out.Cause = known
			}
		}
		return out
	}
	out.Status = resp.StatusCode
	out.NotMatrix = notMatrix(resp.StatusCode, body)
	if resp.StatusCode < 300 {
		out.Status, out.Cause = http.StatusBadGateway, errBadAnswer
		for _, known := range []error{ErrAnswerTooLarge, context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, known) {
				out.Cause = known
			}
		}
	}
	if httpErr.RespError != nil {
		out.ErrCode = httpErr.RespError.ErrCode
		out.SoftLogout, _ = httpErr.RespError.ExtraData["soft_logout"].(bool)
		if ms, ok := httpErr.RespError.ExtraData["retry_after_ms"].(float64); ok && ms > 0 && ms < 1e9 {
			out.RetryAfter = time.Duration(ms) * time.Millisecond
		}
	}
	if out.Status == http.StatusUnauthorized {
		out.UIA = readChallenge(body)
	}
	// The header is retry_after_ms rounded up, unless something in front of the homeserver
	// asks for more.
	if secs, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && secs > 0 && secs < 1e6 {
		if after := time.Duration(secs) * time.Second; after >= out.RetryAfter+time.Second || out.RetryAfter == 0 {
			out.RetryAfter = after
		}
	}
	return out
}

// notMatrix reports whether an unreadable or error response comes from a server that is no
// homeserver. Other statuses are those that a reverse proxy in front of a homeserver
// returns by itself; a truncated response proves nothing.
func notMatrix(status int, body []byte) bool {
	body = bytes.TrimSpace(body)
	other := len(body) == 0 || body[0] != '{' && body[0] != '['
	switch {
	case status < http.StatusBadRequest:
		return other && len(body) > 0
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return other
	}
	return false
}

var (
	errNoAnswer  = errors.New("no answer")
	errBadAnswer = errors.New("the answer could not be read")
)
