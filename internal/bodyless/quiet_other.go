//go:build !unix

package bodyless

import "net"

const canLook = false

// quiet cannot tell.
func quiet(net.Conn) bool { return false }
