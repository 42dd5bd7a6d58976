package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const opsdroidConfig = `
welcome-message: false
web:
  host: 127.0.0.1
  port: %d
parsers:
  regex:
    enabled: true
connectors:
  matrix:
    homeserver: %q
    mxid: %q
    password: %q
    rooms:
      main: %q
skills:
  talk:
    path: %q
`

// opsdroid is a bot with one skill, which does what the test says. It logs in anew at each
// start.
func opsdroid(t *testing.T, p *place, again bool) client {
	p.invite(again)
	interpreter := python(t, "opsdroid")
	program := filepath.Join(filepath.Dir(interpreter), "opsdroid")
	at := port(t)
	file := filepath.Join(p.dir, "configuration.yaml")
	config := fmt.Appendf(nil, opsdroidConfig, at, p.proxy.URL, p.account.UserID, p.account.Password, p.room, driver(t, "opsdroid_skill.py"))
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	bot := start(t, p, exec.Command(interpreter, program, "start", "-f", file), "ROOM="+p.room, "PYTHONUNBUFFERED=1")
	base := fmt.Sprintf("http://127.0.0.1:%d/", at)
	awaitURL(t, bot, base)
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			post(t, base+"skill/talk/say", map[string]string{"text": text})
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			post(t, base+"skill/talk/send", map[string]string{"file": file})
		},
		opens: func(t *testing.T, name string) []byte {
			t.Helper()
			await(t, bot, "opened "+name)
			return readFile(t, filepath.Join(p.dir, name))
		},
		hears: func(t *testing.T, text string) {
			t.Helper()
			await(t, bot, "heard "+text)
		},
		older: func(t *testing.T, text string) {
			t.Helper()
			post(t, base+"skill/talk/older", nil)
			await(t, bot, "older "+text)
		},
	}
}
