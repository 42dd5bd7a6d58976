package clients

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// simplematrixbotlib is a bot that joins where it is invited, by the library of that name,
// without olm. It keeps its session in a file.
func simplematrixbotlib(t *testing.T, p *place, again bool) client {
	cmd := exec.Command(python(t, "simplematrixbotlib"), "-u", driver(t, "simplematrixbotlib_bot.py"))
	do := commands(t, cmd)
	bot := start(t, p, cmd, "URL="+p.proxy.URL, "ID="+p.account.UserID, "PASSWORD="+p.account.Password, "ROOM="+p.room)
	await(t, bot, "ready")
	p.invite(again) // it joins where it is invited while it runs
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			do(t, "say "+text)
		},
		hears: func(t *testing.T, text string) {
			t.Helper()
			await(t, bot, "heard "+text)
		},
		sends: func(t *testing.T, file string) {
			t.Helper()
			do(t, "send "+file)
		},
		opens: func(t *testing.T, name string) []byte {
			t.Helper()
			await(t, bot, "opened "+name)
			return readFile(t, filepath.Join(p.dir, name))
		},
		older: func(t *testing.T, text string) {
			t.Helper()
			do(t, "older")
			await(t, bot, "older "+text)
		},
	}
}
