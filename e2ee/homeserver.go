package e2ee

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
	"e2ee-proxy/trustcache"
)

// homeserver makes the engine's own requests in the name of one device.
type homeserver struct {
	base    *url.URL
	client  *http.Client
	timeout time.Duration
	large   *largeAnswers
}

// request is one call. Body is marshalled unless nil; Result receives the answer unless nil.
type request struct {
	op     string
	method string
	path   mautrix.ClientURLPath
	query  map[string]string
	body   any
	result any
	// large says that the answer grows with the account, user whose that is. See answers.go.
	large bool
	user  id.UserID
	// patient requests may take longer than the timeout: long polls.
	patient time.Duration
}

// call sends a request with a token. Every error is an *UpstreamError.
func (h *homeserver) call(ctx context.Context, token secret.String, r request) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout+r.patient)
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
	body, headers := r.body, http.Header(nil)
	raw, encoded := r.body.(json.RawMessage)
	if encoded { // it is sent as it is
		body, headers = nil, http.Header{"Content-Type": {"application/json"}}
	}
	contents, resp, err := cli.MakeFullRequestWithResp(ctx, mautrix.FullRequest{
		Method:           r.method,
		URL:              cli.BuildURLWithQuery(r.path, r.query),
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
	return upstreamError(r.op, resp, contents, err)
}

// stream is call for an answer that is too large for memory: read gets its body.
func (h *homeserver) stream(ctx context.Context, token secret.String, r request, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout+r.patient)
	defer cancel()
	cli := &mautrix.Client{HomeserverURL: h.base, Log: zerolog.Nop()}
	req, err := http.NewRequestWithContext(ctx, r.method, cli.BuildURLWithQuery(r.path, r.query), nil)
	if err != nil {
		return &UpstreamError{Op: r.op, Cause: errNoAnswer}
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	resp, err := h.client.Do(req)
	if err != nil {
		return upstreamError(r.op, nil, nil, err)
	}
	defer func() { _ = resp.Body.Close() }() // what was read tells what went wrong
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		var said mautrix.RespError
		_ = json.Unmarshal(body, &said) // an answer that is no Matrix error has a status all the same
		return upstreamError(r.op, resp, body, mautrix.HTTPError{Response: resp, RespError: &said})
	}
	if err := read(resp.Body); err != nil {
		if ctx.Err() != nil {
			return upstreamError(r.op, nil, nil, ctx.Err())
		}
		return fmt.Errorf("%s: %w", r.op, err)
	}
	return nil
}

// upstreamError keeps of an error only what may be shown.
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
		out.ErrCode, out.Text = httpErr.RespError.ErrCode, httpErr.RespError.Err
		out.SoftLogout, _ = httpErr.RespError.ExtraData["soft_logout"].(bool)
		if ms, ok := httpErr.RespError.ExtraData["retry_after_ms"].(float64); ok && ms > 0 && ms < 1e9 {
			out.RetryAfter = time.Duration(ms) * time.Millisecond
		}
	}
	if out.Status == http.StatusUnauthorized {
		out.UIA = readChallenge(body)
	}
	// The header rounds up what retry_after_ms says, unless something in front of the
	// homeserver asks for more.
	if secs, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && secs > 0 && secs < 1e6 {
		if after := time.Duration(secs) * time.Second; after >= out.RetryAfter+time.Second || out.RetryAfter == 0 {
			out.RetryAfter = after
		}
	}
	return out
}

// notMatrix reports whether an answer that could not be read, or is an error, is of
// something that is no homeserver. With other statuses what stands before a homeserver
// refuses by itself; what was cut off proves nothing.
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

// keyQuery is the caller of /keys/query for one device, for trustcache.
type keyQuery struct {
	hs    *homeserver
	token secret.String
	user  id.UserID
}

type queryResponse struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
	UserSigningKeys map[id.UserID]json.RawMessage                 `json:"user_signing_keys"`
	Failures        map[string]json.RawMessage                    `json:"failures"`
}

// QueryKeys implements trustcache.KeyQuerier (requirement 3.11: 10 s server timeout).
func (q keyQuery) QueryKeys(ctx context.Context, users []id.UserID) (*trustcache.QueryResult, error) {
	wanted := make(map[id.UserID][]string, len(users))
	for _, u := range users {
		wanted[u] = []string{}
	}
	var resp queryResponse
	err := q.hs.call(ctx, q.token, request{
		op: "query device keys", method: http.MethodPost,
		path:   mautrix.ClientURLPath{"v3", "keys", "query"},
		body:   map[string]any{"device_keys": wanted, "timeout": 10000},
		result: &resp, large: true, user: q.user,
	})
	if upstreamStatus(err) == http.StatusUnauthorized {
		return nil, fmt.Errorf("%w: %w", trustcache.ErrAsker, err)
	}
	if err != nil {
		return nil, err
	}
	return &trustcache.QueryResult{
		DeviceKeys: resp.DeviceKeys, MasterKeys: resp.MasterKeys,
		SelfSigningKeys: resp.SelfSigningKeys, UserSigningKeys: resp.UserSigningKeys,
		Failures: resp.Failures,
	}, nil
}
