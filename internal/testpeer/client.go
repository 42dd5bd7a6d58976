package testpeer

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"e2ee-proxy/internal/testproc"
)

// Deadline bounds every wait of a client for something to be seen.
const Deadline = 30 * time.Second

// callSlack is what a command may take beyond its own deadline.
const callSlack = 30 * time.Second

// Setup is what a client with crypto does about its user's identity when it opens.
type Setup int

const (
	// Unsigned does nothing: the device stays without a signature.
	Unsigned Setup = iota
	// Bootstrap makes identity, secret storage and backup, which must not exist.
	Bootstrap
	// Recover takes them from secret storage with Options.RecoveryKey and signs the device.
	Recover
)

// Options configures a client.
type Options struct {
	// URL is the base URL of the homeserver or of the proxy.
	URL string
	// User (localpart or full ID) and Password log in. With Token, UserID and Device
	// the client uses an existing session instead; Password then serves
	// user-interactive auth only.
	User, Password string
	UserID, Token  string
	Device         string

	// Setup is for clients with crypto.
	Setup       Setup
	RecoveryKey string
	// IncludeInsecure switches "exclude insecure devices" off. For clients with crypto.
	IncludeInsecure bool
	// NoSync leaves the client without a running sync.
	NoSync bool
}

// Client is one logged-in client. Its methods fail the test when something fails;
// [Client.Try] is for what may.
type Client struct {
	UserID      string
	DeviceID    string
	AccessToken string
	// RecoveryKey opens the user's secret storage, when this client made or used it.
	RecoveryKey string

	t    testproc.TB
	host *Host
	name string
}

// Element starts a client of matrix-js-sdk with Rust crypto in a process of its own.
func Element(t testproc.TB, o Options) *Client {
	t.Helper()
	return NodeHost(t).Element(t, o)
}

// PlainJS starts a client of matrix-js-sdk without crypto in a process of its own.
func PlainJS(t testproc.TB, o Options) *Client {
	t.Helper()
	return NodeHost(t).PlainJS(t, o)
}

// Nio starts a client of matrix-nio without olm in a process of its own. It knows
// sending, reading, rooms and membership.
func Nio(t testproc.TB, o Options) *Client {
	t.Helper()
	return NioHost(t).open(t, o, false)
}

// Element opens a client with crypto in this process.
func (h *Host) Element(t testproc.TB, o Options) *Client {
	t.Helper()
	c := h.open(t, o, true)
	switch o.Setup {
	case Unsigned:
	case Bootstrap:
		c.Bootstrap(o.Password)
	case Recover:
		c.Recover(o.RecoveryKey)
	}
	return c
}

// PlainJS opens a client without crypto in this process.
func (h *Host) PlainJS(t testproc.TB, o Options) *Client {
	t.Helper()
	return h.open(t, o, false)
}

// SecondDevice opens another device of the same user in the same process.
func (c *Client) SecondDevice(o Options) *Client {
	c.t.Helper()
	return c.host.Element(c.t, o)
}

func (h *Host) open(t testproc.TB, o Options, crypto bool) *Client {
	t.Helper()
	c := &Client{t: t, host: h, name: fmt.Sprint(h.clients.Add(1))}
	var who struct {
		UserID      string `json:"user_id"`
		DeviceID    string `json:"device_id"`
		AccessToken string `json:"access_token"`
	}
	err := c.Try("open", map[string]any{
		"url": o.URL, "user": o.User, "password": o.Password, "device": o.Device,
		"user_id": o.UserID, "token": o.Token, "crypto": crypto,
		"exclude_insecure": !o.IncludeInsecure, "sync": !o.NoSync,
	}, &who)
	if err != nil {
		t.Fatalf("open a client for %s%s: %v", o.User, o.UserID, err)
	}
	c.UserID, c.DeviceID, c.AccessToken = who.UserID, who.DeviceID, who.AccessToken
	return c
}

// Try runs any command; args and result may be nil. The error is or wraps an [*Error]
// when the client says that it failed.
func (c *Client) Try(cmd string, args map[string]any, result any) error {
	return c.try(Deadline, cmd, args, result)
}

func (c *Client) try(deadline time.Duration, cmd string, args map[string]any, result any) error {
	all := map[string]any{"timeout": deadline.Milliseconds()}
	maps.Copy(all, args)
	return c.host.call(deadline+callSlack, c.name, cmd, all, result)
}

// do runs a command that must succeed.
func (c *Client) do(cmd string, args map[string]any, result any) {
	c.t.Helper()
	if err := c.Try(cmd, args, result); err != nil {
		c.t.Fatalf("%s (%s): %v", c.UserID, c.DeviceID, err)
	}
}

// StartSync starts the sync loop and waits for its first answer.
func (c *Client) StartSync() {
	c.t.Helper()
	c.do("startSync", nil, nil)
}

// StopSync stops the sync loop.
func (c *Client) StopSync() {
	c.t.Helper()
	c.do("stopSync", nil, nil)
}

// Logout logs out and stops.
func (c *Client) Logout() {
	c.t.Helper()
	c.do("logout", nil, nil)
}

// Saw reports whether text was in anything a server answered to this client.
func (c *Client) Saw(text string) bool {
	c.t.Helper()
	var saw bool
	c.do("saw", map[string]any{"text": text}, &saw)
	return saw
}

// ToDevice is a to-device message as it came over the wire.
type ToDevice struct {
	Type    string          `json:"type"`
	Sender  string          `json:"sender"`
	Content json.RawMessage `json:"content"`
}

// ToDevice returns the to-device messages of a type that came so far; of all types when it
// is empty.
func (c *Client) ToDevice(eventType string) []ToDevice {
	c.t.Helper()
	var all []ToDevice
	c.do("toDevice", map[string]any{"type": eventType}, &all)
	return all
}

// AwaitToDevice waits for a to-device message of a type whose content has these values.
func (c *Client) AwaitToDevice(eventType string, content map[string]any) ToDevice {
	c.t.Helper()
	var m ToDevice
	c.do("awaitToDevice", map[string]any{"type": eventType, "content": content}, &m)
	return m
}
