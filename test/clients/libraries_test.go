package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/testpeer"
)

// nio is matrix-nio without olm, in a process of its own (test/python/nio_peer.py).
func nio(t *testing.T, p *place, _ bool) client {
	return library(t, p, func(o testpeer.Options) *testpeer.Client { return testpeer.Nio(t, o) })
}

// jsSDK is matrix-js-sdk without crypto, in a process of its own (test/peer).
func jsSDK(t *testing.T, p *place, _ bool) client {
	return library(t, p, func(o testpeer.Options) *testpeer.Client { return testpeer.PlainJS(t, o) })
}

// library is a client that keeps its session in a file from one start to the next.
func library(t *testing.T, p *place, open func(testpeer.Options) *testpeer.Client) client {
	o := testpeer.Options{URL: p.proxy.URL, User: p.account.UserID, Password: p.account.Password}
	file := filepath.Join(p.dir, "session.json")
	raw, err := os.ReadFile(file)
	switch {
	case err == nil:
		o = testpeer.Options{URL: p.proxy.URL}
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		t.Fatal(err)
	}
	c := open(o)
	if err != nil {
		raw := fmt.Appendf(nil, `{"UserID":%q,"Token":%q,"Device":%q}`, c.UserID, c.AccessToken, c.DeviceID)
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		p.invite(false)
		c.AwaitRoom(p.room, "invite")
		c.Join(p.room)
	}
	return client{
		say: func(_ *testing.T, text string) { c.SendText(p.room, text) },
		hears: func(t *testing.T, text string) {
			t.Helper()
			if m := c.AwaitText(p.room, text); m.Type != "m.room.message" || m.Encrypted {
				t.Errorf("it sees %s, encrypted %v", m.Type, m.Encrypted)
			}
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			c.SendPicture(p.room, filepath.Base(file), readFile(t, file))
		},
		opens: func(_ *testing.T, name string) []byte {
			return c.OpenPicture(p.room, name)
		},
		older: func(t *testing.T, text string) {
			t.Helper()
			var all []string
			for _, m := range c.Scrollback(p.room) {
				all = append(all, m.Body)
			}
			if !strings.Contains(strings.Join(all, "\n"), text) {
				t.Errorf("its history has %q, not %q", all, text)
			}
		},
	}
}
