package testproc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// FreePorts returns n different loopback ports that nobody listens on. They lie below the
// range from which systems take the ports of outgoing connections, so that a program can be
// restarted on them.
func FreePorts(n int) (ports []int, err error) {
	const low, high, tries = 15000, 30000, 50
	var held []net.Listener // until all are found, so that none is found twice
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	failed := 0
	for len(ports) < n {
		port := low + rand.IntN(high-low)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			ports, held = append(ports, port), append(held, l)
			continue
		}
		if failed++; failed == tries {
			return nil, fmt.Errorf("find free ports: %w", err)
		}
	}
	return ports, nil
}
