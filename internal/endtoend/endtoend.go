// Package endtoend separates the header fields of one connection from those of the message.
//
// It promises that after Remove a header has no hop-by-hop field left, named by the
// standard or by its Connection field. It must never drop another field. Anybody who passes
// an HTTP message on may import it.
package endtoend

import (
	"maps"
	"net/http"
	"strings"
)

// hopByHop returns the fields of RFC 9110 section 7.6.1, and those that older software
// treats alike, in canonical form.
func hopByHop() [9]string {
	return [...]string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}
}

// Remove drops the hop-by-hop fields of h, and those that its Connection field names.
func Remove(h http.Header) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.TrimSpace(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop() {
		delete(h, name)
	}
}

// Copy adds the end-to-end fields of src to dst, replacing those that dst has. src is
// not changed.
func Copy(dst, src http.Header) {
	c := src.Clone()
	Remove(c)
	maps.Copy(dst, c)
}
