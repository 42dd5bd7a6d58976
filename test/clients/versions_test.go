package clients

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// Issue: "A table in docs/clients.md: versions, what works, what to set". It has each client
// that is tried, in the version that is installed, and no other.
func TestDocumentHasWhatIsTried(t *testing.T) {
	t.Parallel()
	root, err := testproc.Root()
	if err != nil {
		t.Fatal(err)
	}
	read := func(parts ...string) string {
		raw, err := os.ReadFile(filepath.Join(append([]string{root}, parts...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Za-z.-]+) \| (.*?) \|`).FindAllStringSubmatch(read("docs", "clients.md"), -1) {
		if m[1] != "Client" {
			rows[strings.ToLower(m[1])] = m[2]
		}
	}
	for name := range programs {
		if rows[name] == "" {
			t.Errorf("docs/clients.md does not name %s", name)
		}
	}
	if len(rows) != len(programs) {
		t.Errorf("docs/clients.md has %d clients, %d are tried", len(rows), len(programs))
	}
	for _, tt := range []struct {
		client, pattern string
		file            []string
	}{
		{"apprise", `(?m)^apprise==(.*)$`, []string{"test", "clients", "apprise", "requirements.txt"}},
		{"matrix-webhook", `(?m)^matrix-webhook==(.*)$`, []string{"test", "clients", "matrix-webhook", "requirements.txt"}},
		{"maubot", `(?m)^maubot==(.*)$`, []string{"test", "clients", "maubot", "requirements.txt"}},
		{"maubot", `(?m)^mautrix==(.*)$`, []string{"test", "clients", "maubot", "requirements.txt"}},
		{"simplematrixbotlib", `(?m)^simplematrixbotlib==(.*)$`, []string{"test", "clients", "simplematrixbotlib", "requirements.txt"}},
		{"simplematrixbotlib", `(?m)^matrix-nio==(.*)$`, []string{"test", "clients", "simplematrixbotlib", "requirements.txt"}},
		{"opsdroid", `(?m)^opsdroid==(.*)$`, []string{"test", "clients", "opsdroid", "requirements.txt"}},
		{"opsdroid", `(?m)^matrix-nio==(.*)$`, []string{"test", "clients", "opsdroid", "requirements.txt"}},
		{"matrix-nio", `(?m)^matrix-nio==(.*)$`, []string{"test", "python", "requirements.txt"}},
		{"matrix-js-sdk", `"matrix-js-sdk": "(.*)"`, []string{"test", "peer", "package.json"}},
		{"matrix-bot-sdk", `"matrix-bot-sdk": "(.*)"`, []string{"test", "matrix-bot-sdk", "package.json"}},
		{"matterbridge", `matterbridge v(.*)`, []string{"test", "matterbridge", "go.mod"}},
		{"shoutrrr", `shoutrrr v(.*)`, []string{"test", "shoutrrr", "go.mod"}},
	} {
		m := regexp.MustCompile(tt.pattern).FindStringSubmatch(read(tt.file...))
		if m == nil || !strings.Contains(rows[tt.client], m[1]) {
			t.Errorf("docs/clients.md says %q of %s, %s says %q", rows[tt.client], tt.client, filepath.Join(tt.file...), m)
		}
	}
}
