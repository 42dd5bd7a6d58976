package clients

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"e2ee-proxy/internal/tesths"
)

const maubotConfig = `
user:
  credentials:
    id: %q
    homeserver: %q
    access_token: %q
  autojoin: true
  displayname: disable
  avatar_url: disable
  ignore_initial_sync: false
  ignore_first_sync: false
server:
  hostname: 127.0.0.1
  port: %d
  public_url: http://127.0.0.1
database: sqlite:bot.db
logging:
  version: 1
`

// maubot runs one plugin, which does what the test says, by itself (maubot.standalone). Its
// session is a token in its configuration, of a login through the proxy.
func maubot(t *testing.T, p *place, again bool) client {
	p.invite(again)
	interpreter := python(t, "maubot")
	token := p.keptToken(t)
	at := port(t)
	file := filepath.Join(p.dir, "config.yaml")
	config := fmt.Appendf(nil, maubotConfig, p.account.UserID, p.proxy.URL, token, at)
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	bot := start(t, p, exec.Command(interpreter, "-m", "maubot.standalone", "-c", file, "-m", driver(t, "maubot.yaml")),
		"ROOM="+p.room, "PYTHONDONTWRITEBYTECODE=1")
	base := fmt.Sprintf("http://127.0.0.1:%d/", at)
	awaitURL(t, bot, base)
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			post(t, base+"say", map[string]string{"text": text})
		},
		hears: func(t *testing.T, text string) {
			t.Helper()
			await(t, bot, "heard "+text)
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			post(t, base+"send", map[string]string{"file": file})
		},
		opens: func(t *testing.T, name string) []byte {
			t.Helper()
			await(t, bot, "opened "+name)
			return readFile(t, filepath.Join(p.dir, name))
		},
		older: func(t *testing.T, text string) {
			t.Helper()
			post(t, base+"older", nil)
			await(t, bot, "older "+text)
		},
	}
}

// keptToken returns the token of a login through the proxy, which is made once and kept in
// a file, for a client that is given a token.
func (p *place) keptToken(t *testing.T) string {
	t.Helper()
	file := filepath.Join(p.dir, "token")
	kept, err := os.ReadFile(file)
	if err == nil {
		return string(kept)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	session, err := (tesths.Client{URL: p.proxy.URL}).Login(t.Context(), p.localpart(), p.account.Password, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(session.AccessToken), 0o600); err != nil {
		t.Fatal(err)
	}
	return session.AccessToken
}
