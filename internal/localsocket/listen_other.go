//go:build !unix

package localsocket

import (
	"errors"
	"net"
)

// Listen refuses: this system does not say who is at the other end.
func Listen(string) (net.Listener, error) {
	return nil, errors.New("there are no such sockets on this system")
}
