package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/testproc"
)

// patience bounds every wait for a client: some take seconds to start, on a machine that is
// busy with other tests.
const patience = 2 * time.Minute

// start runs a client that goes on until the test ends.
func start(t *testing.T, p *place, cmd *exec.Cmd, env ...string) *testproc.Process {
	t.Helper()
	cmd.Dir, cmd.Env = p.dir, p.env(env...)
	process, err := testproc.Start(t, t.Name(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	return process
}

// commands returns how a client that reads what to do, a line each, is told; it is called
// before the client is started.
func commands(t *testing.T, cmd *exec.Cmd) func(t *testing.T, line string) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, line string) {
		t.Helper()
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// await waits for what a client writes.
func await(t *testing.T, process *testproc.Process, text string) {
	t.Helper()
	err := process.AwaitReady(t.Context(), patience, func(context.Context) error {
		if !strings.Contains(process.Log().String(), text) {
			return fmt.Errorf("%q is not written yet", text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitURL waits until a client that is a server answers.
func awaitURL(t *testing.T, process *testproc.Process, url string) {
	t.Helper()
	if err := process.AwaitReady(t.Context(), patience, testproc.Answers(url)); err != nil {
		t.Fatal(err)
	}
}

// post gives a client that is a server something to do.
func post(t *testing.T, url string, body any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %s", url, resp.Status)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// port returns a port for a client that is a server.
func port(t *testing.T) int {
	t.Helper()
	ports, err := testproc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}
