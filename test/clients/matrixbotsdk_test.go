package clients

import (
	"os/exec"
	"path/filepath"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// botSDK is a bot by matrix-bot-sdk that joins where it is invited. It is given a token, of a
// login through the proxy, and keeps how far it has read in a file.
func botSDK(t *testing.T, p *place, again bool) client {
	node, program, err := testproc.NodeProgram(t.Context(), "matrix-bot-sdk")
	if err != nil {
		testproc.Missing(t, "Node with matrix-bot-sdk", err)
	}
	cmd := exec.Command(node, "--no-warnings", filepath.Join(program, "main.mjs"))
	do := commands(t, cmd)
	bot := start(t, p, cmd, "URL="+p.proxy.URL, "TOKEN="+p.keptToken(t), "ROOM="+p.room)
	await(t, bot, "ready")
	p.invite(again)
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
