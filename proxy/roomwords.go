package proxy

import (
	"slices"
	"strings"
)

// Rules of this file:
//   - A path is also checked as software between the proxy and the homeserver might read
//     it: decoded more than once, with backslashes for slashes, cut off at a semicolon.
//   - That decides only what is refused. What goes upstream is decoded exactly once.

// decodings returns a decoded segment, and the result of every further decoding.
func decodings(value string) []string {
	all := []string{value}
	for {
		next := decodeAgain(value)
		if next == value {
			return all
		}
		all, value = append(all, next), next
	}
}

// decodeAgain decodes what looks like an escape and leaves the rest.
func decodeAgain(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0 {
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		} else {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// splits reports whether something could take a character for the end of a segment.
func splits(r rune) bool {
	return r == '/' || r == '\\' || r == ';' || r == '?' || r == '#' || r == 0
}

// roomWords records which words about rooms, and about the keys of devices, are in the segments
// of a path.
type roomWords struct{ inRoom, writes, keys, asks bool }

// add adds one decoded segment.
func (w *roomWords) add(value string) {
	for _, layer := range decodings(value) {
		for part := range strings.FieldsFuncSeq(layer, splits) {
			w.inRoom = w.inRoom || strings.EqualFold(part, "rooms") || part[0] == '!'
			w.writes = w.writes || isWriteWord(part)
			w.keys = w.keys || strings.EqualFold(part, "keys")
			w.asks = w.asks || strings.EqualFold(part, "query") || strings.EqualFold(part, "claim")
		}
	}
}

// refuses reports whether a request on a path without a row must be refused: what could be
// a write to a room, or a question about devices' keys whose answer nobody would filter, and a
// read of the kind that some homeservers accept as a write.
func (w *roomWords) refuses(reads bool) bool {
	if reads {
		return w.inRoom && w.writes
	}
	return w.inRoom || w.writes || w.keys && w.asks
}

// isWriteWord reports whether a segment names a way to put an event into a room
// (send_pdus is one of MSC4080), or another kind of sync.
func isWriteWord(s string) bool {
	if len(s) >= 4 && strings.EqualFold(s[:4], "send") {
		return true
	}
	return slices.ContainsFunc([]string{"state", "redact", "batch_send", "import", "createRoom", "sync"}, func(word string) bool {
		return strings.EqualFold(s, word)
	})
}
