package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/testproc"
)

// slowProxy is a proxy that has done a half of everything until it is told to go on.
type slowProxy struct {
	goOn chan struct{}
}

const halfOfExport = 1 << 20

func (p *slowProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wait := func() {
		select {
		case <-p.goOn:
		case <-r.Context().Done():
		}
	}
	switch strings.TrimPrefix(r.URL.Path, "/_e2ee_proxy/v1/") {
	case "keys/export":
		half := strings.Repeat("x", halfOfExport)
		_, _ = io.WriteString(w, half)
		_ = http.NewResponseController(w).Flush()
		wait()
		_, _ = io.WriteString(w, half)
	case "keys/import":
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		wait()
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"total":2,"imported":1}`)
	case "keys/restore":
		_, _ = io.WriteString(w, "{}")
	case "status":
		now := e2ee.RestoreStatus{State: "running", Done: 3, Total: 12}
		select {
		case <-p.goOn:
			now = e2ee.RestoreStatus{State: "done", Done: 12, Total: 12, Restored: 12}
		default:
		}
		var s e2ee.Status
		s.Backup.Restore = &now
		_ = json.NewEncoder(w).Encode(s)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// Long work shows at a terminal how far it is, and no trace of that when it is done; what came
// of it stands on a line of its own.
func TestLongWorkIsSeen(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args       []string
		seen, done string
	}{
		"export":  {[]string{"export", "new.txt"}, `Exporting \(1\.0 MB`, "The keys are in new.txt"},
		"import":  {[]string{"import", "old.txt"}, `Importing +[0-9]+%.*8\.4 MB`, "Of 2 keys in the file 1 were news"},
		"restore": {[]string{"restore"}, `Restoring +25%.*\(3/12`, "The history is restored: 12 keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, data := range map[string]string{"old.txt": strings.Repeat("x", 8<<20), "passphrase": "a passphrase\n"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := &slowProxy{make(chan struct{})}
			server := httptest.NewUnstartedServer(p)
			socket, err := net.Listen("unix", filepath.Join(testproc.FastDir(t), "s"))
			if err != nil {
				t.Fatal(err)
			}
			server.Listener.Close()
			server.Listener = socket
			server.Start()
			goOn := sync.OnceFunc(func() { close(p.goOn) })
			t.Cleanup(func() { goOn(); server.Close() })
			args := append(tt.args, "--user", "@bot:hs.test", "--control-socket", socket.Addr().String())
			if name != "restore" {
				args = append(args, "--passphrase-file", "passphrase")
			}
			cmd := exec.Command("e2ee-proxy", args...)
			cmd.Dir = dir
			term := testproc.OnTerminal(t, name, cmd)
			term.AwaitShown(tt.seen, regexp.MustCompile(tt.seen).MatchString)
			goOn()
			shown, code := term.End()
			if code != 0 {
				t.Fatalf("exit code %d:\n%q", code, shown)
			}
			// The last of it is written over with blanks, from the beginning of its line.
			if !regexp.MustCompile(`\r *\r` + regexp.QuoteMeta(tt.done)).MatchString(shown) {
				t.Errorf("the end is %q", shown[max(0, len(shown)-400):])
			}
		})
	}
}

// Who runs the proxy by hand reads what it says; a service manager gets JSON.
func TestLogOnATerminal(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("e2ee-proxy", "serve", "--homeserver", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--data", testproc.FastDir(t))
	term := testproc.OnTerminal(t, "serve", cmd)
	term.AwaitShown("what it listens on", regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d INF listening .*listen=127\.0\.0\.1:`).MatchString)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if shown, code := term.End(); code != 0 || strings.Contains(shown, `"message"`) {
		t.Errorf("exit code %d:\n%s", code, shown)
	}
}
