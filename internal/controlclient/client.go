package controlclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

const (
	prefix = "/_e2ee_proxy/v1/"
	// maxAnswer is how much of an answer is read that is no file, in bytes.
	maxAnswer = 8 << 20
)

// ErrNotRunning means that nothing answers where the proxy should be.
var ErrNotRunning = errors.New("the proxy does not answer")

// Client asks in the name of one device.
type Client struct {
	base  *url.URL
	query url.Values
	token secret.String
	http  *http.Client
}

// ByToken asks at the address of a proxy for clients, with a device's access token.
func ByToken(base *url.URL, transport http.RoundTripper, token secret.String) *Client {
	return &Client{base: base, token: token, http: noRedirects(transport)}
}

// BySocket asks over the socket of the machine's owner. An empty device is the one used last.
func BySocket(path string, user id.UserID, device id.DeviceID) *Client {
	query := url.Values{"user": {user.String()}}
	if device != "" {
		query.Set("device", device.String())
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	return &Client{base: &url.URL{Scheme: "http", Host: "proxy"}, query: query, http: noRedirects(transport)}
}

func noRedirects(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close closes connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// RefusedError is an error that the proxy answered with.
type RefusedError struct {
	Status  int
	ErrCode string
	Text    string
	// Body is the whole answer, such as the flows of user-interactive authentication.
	Body json.RawMessage
}

func (e *RefusedError) Error() string { return e.Text }

// Get reads what the proxy says.
func (c *Client) Get(ctx context.Context, call string, out any) error {
	return c.do(ctx, http.MethodGet, call, nil, out)
}

// Post has something done. body becomes JSON; out may be nil.
func (c *Client) Post(ctx context.Context, call string, body, out any) error {
	return c.send(ctx, http.MethodPost, call, body, out)
}

// Put is Post with another method.
func (c *Client) Put(ctx context.Context, call string, body, out any) error {
	return c.send(ctx, http.MethodPut, call, body, out)
}

func (c *Client) send(ctx context.Context, method, call string, body, out any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	return c.do(ctx, method, call, &content{bytes.NewReader(raw), int64(len(raw)), jsonType}, out)
}

// PostStream is Post with a body of its own, of a known size.
func (c *Client) PostStream(ctx context.Context, call string, body io.Reader, size int64, out any) error {
	return c.do(ctx, http.MethodPost, call, &content{body, size, jsonType}, out)
}

// PostFile is Post with a file of some type.
func (c *Client) PostFile(ctx context.Context, call, kind string, file []byte, out any) error {
	return c.do(ctx, http.MethodPost, call, &content{bytes.NewReader(file), int64(len(file)), kind}, out)
}

const jsonType = "application/json"

// content is the body of a request.
type content struct {
	io.Reader
	size int64
	kind string
}

// Download is Post for a call that answers with a file.
func (c *Client) Download(ctx context.Context, call string, body any, to io.Writer) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	resp, err := c.ask(ctx, http.MethodPost, call, &content{bytes.NewReader(raw), int64(len(raw)), jsonType})
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end or fails
	if resp.StatusCode != http.StatusOK {
		return refused(resp)
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("read the file: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, call string, body *content, out any) error {
	resp, err := c.ask(ctx, method, call, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read to its end or fails
	if resp.StatusCode != http.StatusOK {
		return refused(resp)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return errors.New("what answers is not the proxy")
	}
	return nil
}

// Path returns a call with a name in it that may hold anything.
func Path(parts ...string) string {
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

func (c *Client) ask(ctx context.Context, method, call string, body *content) (*http.Response, error) {
	at := c.base.JoinPath(prefix, call)
	path, query, _ := strings.Cut(call, "?")
	if query != "" {
		at = c.base.JoinPath(prefix, path)
	}
	asked, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	maps.Copy(asked, c.query)
	at.RawQuery = asked.Encode()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		req.Body, req.ContentLength = io.NopCloser(body.Reader), body.size
		req.Header.Set("Content-Type", body.kind)
	}
	if !c.token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	resp, err := c.http.Do(req)
	if err == nil {
		return resp, nil
	}
	if cause := ctx.Err(); cause != nil {
		return nil, cause //nolint:wrapcheck // the user ended it
	}
	if failed := (*url.Error)(nil); errors.As(err, &failed) {
		err = failed.Err // without the address, in which the user stands
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	return nil, fmt.Errorf("ask the proxy: %w", err)
}

func refused(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	var said struct {
		ErrCode string `json:"errcode"`
		Error   string `json:"error"`
	}
	if json.Unmarshal(raw, &said) != nil || said.ErrCode == "" {
		return fmt.Errorf("what answers with status %d is not the proxy", resp.StatusCode)
	}
	return &RefusedError{Status: resp.StatusCode, ErrCode: said.ErrCode, Text: said.Error, Body: raw}
}
