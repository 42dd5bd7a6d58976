package testpeer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"e2ee-proxy/internal/testproc"
)

// Host is a child process that holds clients.
type Host struct {
	t       testproc.TB
	process *testproc.Process
	clients atomic.Int64

	writeMu sync.Mutex
	in      io.Writer

	mu      sync.Mutex
	lastID  int64
	waiting map[int64]chan answer
}

type answer struct {
	Result json.RawMessage `json:"result"`
	Error  *Error          `json:"error"`
}

// Error is what a client reports of a command that failed.
type Error struct {
	Message    string          `json:"message"`
	Name       string          `json:"name"`
	Errcode    string          `json:"errcode"`     // of a Matrix error
	HTTPStatus int             `json:"http_status"` // of a Matrix error
	Data       json.RawMessage `json:"data"`        // the body of a Matrix error
}

func (e *Error) Error() string {
	if e.Errcode != "" {
		return fmt.Sprintf("%s (%d): %s", e.Errcode, e.HTTPStatus, e.Message)
	}
	return e.Message
}

// NodeHost starts a process for clients of matrix-js-sdk.
func NodeHost(t testproc.TB) *Host {
	t.Helper()
	node, program, err := testproc.Node(t.Context())
	if err != nil {
		testproc.Missing(t, "Node with matrix-js-sdk", err)
	}
	cmd := exec.Command(node, "--no-warnings", filepath.Join(program, "main.mjs"))
	return startHost(t, "node peer", cmd)
}

// NioHost starts a process for clients of matrix-nio.
func NioHost(t testproc.TB) *Host {
	t.Helper()
	python, err := testproc.Python(t.Context())
	if err != nil {
		testproc.Missing(t, "Python with matrix-nio", err)
	}
	root, err := testproc.Root()
	if err != nil {
		t.Fatalf("start nio peer: %v", err)
	}
	cmd := exec.Command(python, filepath.Join(root, "test", "python", "nio_peer.py"))
	return startHost(t, "nio peer", cmd)
}

// StartHost starts another program that speaks JSON lines as the clients do.
func StartHost(t testproc.TB, name string, cmd *exec.Cmd) *Host {
	t.Helper()
	return startHost(t, name, cmd)
}

// Call runs a command of such a program; args and result may be nil.
func (h *Host) Call(deadline time.Duration, cmd string, args map[string]any, result any) error {
	return h.call(deadline, "", cmd, args, result)
}

func startHost(t testproc.TB, name string, cmd *exec.Cmd) *Host {
	t.Helper()
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	cmd.Stdin, cmd.Stdout = inRead, outWrite
	h := &Host{t: t, in: inWrite, waiting: map[int64]chan answer{}}
	h.process, err = testproc.Start(t, name, cmd)
	// The child has its own; ours would keep the pipes open after its end.
	inRead.Close()
	outWrite.Close()
	if err != nil {
		t.Fatalf("%v", err)
	}
	readerDone := make(chan struct{})
	go func() {
		defer close(readerDone)
		h.read(outRead)
	}()
	t.Cleanup(func() {
		h.process.Kill()
		<-readerDone
		inWrite.Close()
		outRead.Close()
	})
	return h
}

func (h *Host) read(out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var a struct {
			ID int64 `json:"id"`
			answer
		}
		if err := json.Unmarshal(line, &a); err != nil {
			h.t.Errorf("peer wrote %q: %v", line, err)
			continue
		}
		h.mu.Lock()
		waiting := h.waiting[a.ID]
		delete(h.waiting, a.ID)
		h.mu.Unlock()
		if waiting != nil {
			waiting <- a.answer
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, waiting := range h.waiting {
		waiting <- answer{Error: &Error{Message: "the peer's process has ended"}}
		delete(h.waiting, id)
	}
}

// call sends one command and waits for its answer.
func (h *Host) call(deadline time.Duration, client, cmd string, args map[string]any, result any) error {
	request := map[string]any{"client": client, "cmd": cmd}
	maps.Copy(request, args)
	got := make(chan answer, 1)
	h.mu.Lock()
	h.lastID++
	id := h.lastID
	h.waiting[id] = got
	h.mu.Unlock()
	request["id"] = id

	line, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	h.writeMu.Lock()
	_, err = h.in.Write(append(line, '\n'))
	h.writeMu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case a := <-got:
		if a.Error != nil {
			return fmt.Errorf("%s: %w", cmd, a.Error)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(a.Result, result); err != nil {
			return fmt.Errorf("%s: %w", cmd, err)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("%s: no answer after %s", cmd, deadline)
	case <-h.process.Done():
		return errors.New(cmd + ": the peer's process has ended")
	}
}
