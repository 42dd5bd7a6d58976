package clients

import (
	"testing"

	"e2ee-proxy/internal/testproc"
)

// What of the clients is obtained is there. `make test-deps` runs this, so that nothing is
// downloaded or built while other tests wait.
func TestPrepared(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"apprise", "matrix-webhook", "maubot", "opsdroid", "simplematrixbotlib"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			python(t, name)
		})
	}
	for name, obtain := range map[string]func(*testing.T){
		"matterbridge": func(t *testing.T) { t.Helper(); matterbridgeProgram(t) },
		"shoutrrr":     func(t *testing.T) { t.Helper(); shoutrrrProgram(t) },
		"matrix-bot-sdk": func(t *testing.T) {
			t.Helper()
			if _, _, err := testproc.NodeProgram(t.Context(), "matrix-bot-sdk"); err != nil {
				testproc.Missing(t, "Node with matrix-bot-sdk", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			obtain(t)
		})
	}
}
