package testproc

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePort gives a loopback port that nobody listens on. It lies below the range
// from which systems take the ports of outgoing connections, so that a program can be
// restarted on it.
func FreePort() (int, error) {
	const low, high, tries = 15000, 30000, 50
	var last error
	for range tries {
		port := low + rand.IntN(high-low)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			last = err
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return port, nil
	}
	return 0, fmt.Errorf("find a free port: %w", last)
}
