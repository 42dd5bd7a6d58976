package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/localsocket"
)

// listeners are where the process listens. All but clients may be nil.
type listeners struct {
	clients, operators, local, replicas, console net.Listener
}

// listenAll listens wherever the configuration says. What it returns must be closed, whatever
// the error.
func listenAll(cfg *config.Config, log zerolog.Logger) (at listeners, err error) {
	if at.clients, err = listen("listen", cfg.Listen); err != nil {
		return at, err
	}
	if at.operators, err = listenOps(cfg.OpsListen); err != nil {
		return at, err
	}
	if at.local, err = listenLocal(cfg, log); err != nil {
		return at, err
	}
	if cfg.Console.Enabled && cfg.Console.Listen != "" {
		if at.console, err = listen("console.listen", cfg.Console.Listen); err != nil {
			return at, err
		}
	}
	at.replicas, err = listenCluster(cfg)
	return at, err
}

// Close closes those that are still open.
func (at *listeners) Close() error {
	return errors.Join(closeOnce(at.console), closeOnce(at.replicas), closeOnce(at.local), closeOnce(at.operators), closeOnce(at.clients))
}

func listen(setting, address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &failure{exitListen, fmt.Errorf("%s: %w", setting, err), "is another program, or another copy of the proxy, using the address? choose another one with --" + flagOf(setting)}
	}
	return ln, nil
}

func listenOps(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	return listen("ops_listen", address)
}

func flagOf(setting string) string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(setting)
}

// closeOnce closes a listener that may be closed already.
func closeOnce(ln net.Listener) error {
	if ln == nil {
		return nil
	}
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listenLocal makes the socket of the control API. The one that nobody asked for is done
// without where it cannot be made, such as below a path that is too long.
func listenLocal(cfg *config.Config, log zerolog.Logger) (net.Listener, error) {
	path := cfg.ControlSocketPath()
	if path == "" {
		return nil, nil
	}
	ln, err := localsocket.Listen(path)
	switch {
	case err == nil:
		return ln, nil
	case cfg.ControlSocket == "":
		log.Warn().Err(err).Str("socket", path).Msg("there is no socket for the commands: name another place with control_socket, or switch it off")
		return nil, nil
	}
	return nil, &failure{exitListen, fmt.Errorf("control_socket: %w", err), "name another path with --control-socket, or off"}
}
