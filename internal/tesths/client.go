package tesths

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1" // what the registration API of both servers uses
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"e2ee-proxy/internal/testproc"
)

// requestDeadline bounds one request of the harness's own.
const requestDeadline = 60 * time.Second

// Account is a registered user with one logged-in device.
type Account struct {
	UserID      string `json:"user_id"`
	AccessToken string `json:"access_token"`
	DeviceID    string `json:"device_id"`
	// Password is what the account was registered with.
	Password string `json:"-"`
}

// Response is an answer with its body read.
type Response struct {
	Status int
	Body   []byte
}

// JSON decodes the body.
func (r Response) JSON(v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return fmt.Errorf("decode %q: %w", r.Body, err)
	}
	return nil
}

// Client sends plain requests to one base URL, as curl would: to a homeserver or to
// the proxy.
type Client struct {
	// URL is the base URL, without a slash at its end.
	URL string
	// Token goes into the Authorization header when not empty.
	Token string
	// Transport carries the requests; [http.DefaultTransport] when nil.
	Transport http.RoundTripper
}

// Do sends one request. body may be nil, a []byte that is sent as it is, or anything
// that encodes to JSON. path is escaped already and may have a query.
func (c Client) Do(ctx context.Context, method, path string, body any) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, requestDeadline)
	defer cancel()
	raw, isBytes := body.([]byte)
	if !isBytes && body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return Response{}, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(raw))
	if err != nil {
		return Response{}, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Transport: c.Transport}).Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return Response{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return Response{Status: resp.StatusCode, Body: data}, nil
}

// Call sends one request that must succeed and decodes its answer into result, which
// may be nil.
func (c Client) Call(ctx context.Context, method, path string, body, result any) error {
	resp, err := c.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if resp.Status != http.StatusOK {
		return fmt.Errorf("%s %s answers %d: %s", method, path, resp.Status, resp.Body)
	}
	if result == nil {
		return nil
	}
	return resp.JSON(result)
}

// Login logs in with a password; an empty device lets the server choose one.
func (c Client) Login(ctx context.Context, user, password, device string) (Account, error) {
	body := map[string]any{
		"type":       "m.login.password",
		"identifier": map[string]string{"type": "m.id.user", "user": user},
		"password":   password,
	}
	if device != "" {
		body["device_id"] = device
	}
	a := Account{Password: password}
	err := c.Call(ctx, http.MethodPost, "/_matrix/client/v3/login", body, &a)
	return a, err
}

// As returns a client with this account's token.
func (c Client) As(a Account) Client {
	c.Token = a.AccessToken
	return c
}

// Event is an event as the server stores it.
type Event struct {
	EventID  string          `json:"event_id"`
	Type     string          `json:"type"`
	Sender   string          `json:"sender"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Unsigned json.RawMessage `json:"unsigned"`
	// Raw is the whole event as it came.
	Raw json.RawMessage `json:"-"`
}

// Event reads one event back, as soon as it is there: the part of Dendrite that reads lags
// behind the one that writes.
func (c Client) Event(ctx context.Context, room, event string) (Event, error) {
	ctx, cancel := context.WithTimeout(ctx, requestDeadline)
	defer cancel()
	var raw json.RawMessage
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/event/" + url.PathEscape(event)
	err := testproc.Await(ctx, func(ctx context.Context) error { return c.Call(ctx, http.MethodGet, path, nil, &raw) })
	if err != nil {
		return Event{}, err
	}
	return parseEvent(raw)
}

// Messages reads the newest events of a room back, oldest first.
func (c Client) Messages(ctx context.Context, room string) ([]Event, error) {
	var page struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/messages?dir=b&limit=200"
	if err := c.Call(ctx, http.MethodGet, path, nil, &page); err != nil {
		return nil, err
	}
	events := make([]Event, len(page.Chunk))
	for i, raw := range page.Chunk {
		e, err := parseEvent(raw)
		if err != nil {
			return nil, err
		}
		events[len(events)-1-i] = e
	}
	return events, nil
}

func parseEvent(raw json.RawMessage) (Event, error) {
	e := Event{Raw: raw}
	if err := json.Unmarshal(raw, &e); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	return e, nil
}

// Client returns a client for the homeserver itself, past the proxy.
func (h *Homeserver) Client() Client { return Client{URL: h.URL} }

// Register makes an account with the shared secret and logs it in.
func (h *Homeserver) Register(ctx context.Context, user, password string) (Account, error) {
	const path = "/_synapse/admin/v1/register"
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	c := h.Client()
	if err := c.Call(ctx, http.MethodGet, path, nil, &nonce); err != nil {
		return Account{}, fmt.Errorf("register %s: %w", user, err)
	}
	mac := hmac.New(sha1.New, []byte(sharedSecret))
	mac.Write([]byte(strings.Join([]string{nonce.Nonce, user, password, "notadmin"}, "\x00")))
	a := Account{Password: password}
	err := c.Call(ctx, http.MethodPost, path, map[string]any{
		"nonce": nonce.Nonce, "username": user, "password": password, "admin": false,
		"mac": hex.EncodeToString(mac.Sum(nil)),
	}, &a)
	if err != nil {
		return Account{}, fmt.Errorf("register %s: %w", user, err)
	}
	return a, nil
}
