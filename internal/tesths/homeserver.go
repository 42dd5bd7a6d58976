package tesths

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"e2ee-proxy/internal/testproc"
)

// ServerName is the server part of user and room IDs on every test homeserver.
const ServerName = "hs.test"

// sharedSecret lets [Homeserver.Register] make accounts.
const sharedSecret = "a secret for tests only"

const (
	readyDeadline = 90 * time.Second
	stopDeadline  = 20 * time.Second
)

// Homeserver is a running homeserver.
type Homeserver struct {
	// Kind is "dendrite" or "synapse".
	Kind string
	// URL is the base URL of the Client-Server API.
	URL string

	tb      testproc.TB // whose end is the end of the server
	command func() *exec.Cmd

	mu      sync.Mutex
	process *testproc.Process
}

// Start starts the server and waits until it answers. It must not be running.
func (h *Homeserver) Start(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := testproc.Start(h.tb, h.Kind, h.command())
	if err != nil {
		return err
	}
	h.process = p
	return p.AwaitReady(ctx, readyDeadline, testproc.Answers(h.URL+"/_matrix/client/versions"))
}

// Stop ends the server in good order; its data stay.
func (h *Homeserver) Stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process.Stop(stopDeadline)
}

// Restart stops the server and starts it again with the same data and port.
func (h *Homeserver) Restart(ctx context.Context) error {
	if err := h.Stop(); err != nil {
		return err
	}
	return h.Start(ctx)
}

// launch makes and starts a server on a free port, and tries other ports when the
// server does not come up, since somebody may have taken the port in between.
func launch(t testproc.TB, kind string, configure func(port int) (func() *exec.Cmd, error)) (*Homeserver, error) {
	t.Helper()
	const tries = 2
	var last error
	for range tries {
		ports, err := testproc.FreePorts(1)
		if err != nil {
			return nil, err
		}
		port := ports[0]
		command, err := configure(port)
		if err != nil {
			return nil, fmt.Errorf("configure %s: %w", kind, err)
		}
		h := &Homeserver{
			Kind: kind, URL: fmt.Sprintf("http://127.0.0.1:%d", port),
			tb: t, command: command,
		}
		if last = h.Start(t.Context()); last == nil {
			return h, nil
		}
		if h.process != nil {
			h.process.Kill()
		}
	}
	return nil, last
}
