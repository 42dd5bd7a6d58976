// Package sdnotify tells systemd how the service is, as sd_notify(3) describes: that it is
// ready, reloads, stops, and is alive.
//
// It promises to do nothing where systemd does not ask for it, and that a message that cannot
// be sent is an error and nothing worse.
//
// It must never say anything of what the service serves: systemd shows it to everybody.
//
// Importers: cmd/e2ee-proxy.
package sdnotify

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Notifier sends messages to the service manager. Its zero value sends none.
type Notifier struct {
	socket string
	// every is how often the manager wants to hear that the process is alive; 0 for never.
	every time.Duration
}

// FromEnviron returns the notifier that the manager's variables ask for.
func FromEnviron(environ []string) Notifier {
	var n Notifier
	var micros, pid string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "NOTIFY_SOCKET":
			n.socket = value
		case "WATCHDOG_USEC":
			micros = value
		case "WATCHDOG_PID":
			pid = value
		}
	}
	if n.socket == "" || (n.socket[0] != '/' && n.socket[0] != '@') {
		return Notifier{}
	}
	if usec, err := strconv.ParseInt(micros, 10, 64); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(usec) * time.Microsecond / 2 // so that one may be late
	}
	return n
}

// Ready says that the service serves; also after a reload.
func (n Notifier) Ready(status string) error { return n.send("READY=1\nSTATUS=" + status) }

// Status says in a line what the service does.
func (n Notifier) Status(status string) error { return n.send("STATUS=" + status) }

// Reloading says that the settings are read again, until Ready is called.
func (n Notifier) Reloading() error {
	usec, err := monotonic()
	if err != nil {
		return err
	}
	return n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(usec, 10))
}

// Stopping says that the service is about to end.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Alive says that the process is alive as often as the manager wants to hear it, until ctx is
// done. It calls failed when that could not be said, and goes on.
func (n Notifier) Alive(ctx context.Context, failed func(error)) {
	if n.every <= 0 {
		return
	}
	tick := time.NewTicker(n.every)
	defer tick.Stop()
	for {
		if err := n.send("WATCHDOG=1"); err != nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n Notifier) send(message string) error {
	if n.socket == "" {
		return nil
	}
	// A name that begins with @ is an abstract one, for systemd as for package net.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	_, err = conn.Write([]byte(message))
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}
