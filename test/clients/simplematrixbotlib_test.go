package clients

import (
	"io"
	"os/exec"
	"testing"
)

// simplematrixbotlib is a bot that joins where it is invited, by the library of that name,
// without olm. It keeps its session in a file.
func simplematrixbotlib(t *testing.T, p *place, again bool) client {
	cmd := exec.Command(python(t, "simplematrixbotlib"), "-u", driver(t, "simplematrixbotlib_bot.py"))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	bot := start(t, p, cmd, "URL="+p.proxy.URL, "ID="+p.account.UserID, "PASSWORD="+p.account.Password, "ROOM="+p.room)
	await(t, bot, "ready")
	p.invite(again) // it joins where it is invited while it runs
	return client{
		say: func(t *testing.T, text string) {
			t.Helper()
			if _, err := io.WriteString(in, text+"\n"); err != nil {
				t.Fatal(err)
			}
		},
		hears: func(t *testing.T, text string) {
			t.Helper()
			await(t, bot, "heard "+text)
		},
	}
}
