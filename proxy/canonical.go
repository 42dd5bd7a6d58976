package proxy

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Rules of this file:
//   - A target is judged from the bytes of the request line, decoded exactly once.
//   - What could mean one endpoint here and another one to the homeserver, or to something
//     between, is refused: empty and dot segments, encoded letters where a fixed word
//     belongs, matrix parameters, control characters, broken escapes.
//   - What goes upstream is rebuilt by appendSegment.

const (
	maxPathBytes = 16 << 10
	maxSegments  = 24
	maxParams    = 8
	// versionMark stands for the version segment in patterns and in split paths. A client
	// cannot send it: braces are not allowed in a path.
	versionMark = "{version}"
)

var (
	errNotPath      = errors.New("the request target is not a path")
	errPathTooLong  = errors.New("the path is too long")
	errPathBytes    = errors.New("the path has characters that must be percent-encoded")
	errPathEscape   = errors.New("the path has a broken percent-encoding")
	errEmptySegment = errors.New("the path has an empty segment")
	errDotSegment   = errors.New("the path has a dot segment")
	errControl      = errors.New("the path has control characters or is not UTF-8")
	errAmbiguous    = errors.New("the path encodes characters that need no encoding")
	errParam        = errors.New("a path parameter is not what its place takes")
)

// target is a split request target. Its segments are still encoded.
type target struct {
	// version is the API version of a /_matrix/client or /_matrix/media path, empty when it
	// has no known one; its segment is then versionMark.
	version string
	segs    [maxSegments]string
	n       int
	// plainEscapes reports whether a character which needs no encoding was encoded.
	plainEscapes bool
	query        string
}

// segments returns the segments after the leading slash.
func (t *target) segments() []string { return t.segs[:t.n] }

// parse splits the target of a request line ("/path?query").
func (t *target) parse(requestURI string) error {
	path, query, _ := strings.Cut(requestURI, "?")
	t.query = query
	if path == "" || path[0] != '/' {
		return errNotPath
	}
	if len(path) > maxPathBytes {
		return errPathTooLong
	}
	if err := t.checkBytes(path); err != nil {
		return err
	}
	rest := path[1:]
	for more := true; more; {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		if seg == "" && more {
			return errEmptySegment
		}
		if t.n == maxSegments {
			return errPathTooLong
		}
		if isDots(seg) {
			return errDotSegment
		}
		t.segs[t.n] = seg
		t.n++
	}
	t.takeVersion()
	return nil
}

// checkBytes accepts the characters that RFC 3986 allows in a path, except ";", and bytes
// of non-ASCII characters, which some clients do not encode.
func (t *target) checkBytes(path string) error {
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case isUnreserved(c), c == '/', c >= utf8.RuneSelf:
		case c == '%':
			if i+2 >= len(path) || unhex(path[i+1]) < 0 || unhex(path[i+2]) < 0 {
				return errPathEscape
			}
			if isUnreserved(byte(unhex(path[i+1])<<4 | unhex(path[i+2]))) {
				t.plainEscapes = true
			}
			i += 2
		case strings.IndexByte("!$&'()*+,=:@", c) >= 0:
		default:
			return errPathBytes
		}
	}
	return nil
}

// takeVersion recognizes the version segment; "api/v1" is two segments.
func (t *target) takeVersion() {
	if t.n < 3 || t.segs[0] != "_matrix" || t.segs[1] != "client" && t.segs[1] != "media" {
		return
	}
	if t.n > 3 && t.segs[2] == "api" && t.segs[3] == "v1" {
		t.version = "api/v1"
		copy(t.segs[3:], t.segs[4:t.n])
		t.n--
		t.segs[t.n] = ""
		t.segs[2] = versionMark
		return
	}
	if versionBit(t.segs[2]) != 0 {
		t.version, t.segs[2] = t.segs[2], versionMark
	}
}

// isDots reports whether a segment is "." or "..", however encoded.
func isDots(seg string) bool {
	if len(seg) > 6 || seg == "" {
		return false
	}
	dots := 0
	for i := 0; i < len(seg); i++ {
		switch {
		case seg[i] == '.':
		case seg[i] == '%' && len(seg) >= i+3 && seg[i+1] == '2' && (seg[i+2] == 'e' || seg[i+2] == 'E'):
			i += 2
		default:
			return false
		}
		dots++
	}
	return dots <= 2
}

// decode decodes a segment exactly once. Its escapes are known to be valid.
func decode(seg string) (string, error) {
	out := seg
	if strings.IndexByte(seg, '%') >= 0 {
		b := make([]byte, 0, len(seg))
		for i := 0; i < len(seg); i++ {
			c := seg[i]
			if c == '%' {
				c = byte(unhex(seg[i+1])<<4 | unhex(seg[i+2]))
				i += 2
			}
			b = append(b, c)
		}
		out = string(b)
	}
	for i := 0; i < len(out); i++ {
		if out[i] < 0x20 || out[i] == 0x7f {
			return "", errControl
		}
	}
	if !utf8.ValidString(out) {
		return "", errControl
	}
	return out, nil
}

// checkParam refuses values that software between the proxy and the homeserver could turn
// into another endpoint by decoding too often. Slashes are allowed where identifiers may
// have them (user IDs, aliases, event IDs of room version 3, state keys).
func checkParam(name, value string) error {
	if value == "" {
		if name == "stateKey" {
			return nil
		}
		return errParam
	}
	if name == "roomId" && value[0] != '!' {
		return errParam
	}
	if strings.IndexByte(value, '%') < 0 {
		return checkDecoded(name, value)
	}
	for _, layer := range decodings(value) {
		if err := checkDecoded(name, layer); err != nil {
			return err
		}
	}
	return nil
}

// checkDecoded is like checkParam, for the value after one further decoding.
func checkDecoded(name, value string) error {
	slashes := strings.IndexByte(value, '/') >= 0
	backslashes := strings.IndexByte(value, '\\') >= 0
	switch name {
	case "roomId":
		if slashes || backslashes {
			return errParam
		}
	case "serverName", "mediaId", "filterId":
		if slashes {
			return errParam
		}
	}
	if !slashes && !backslashes {
		if value == "." || value == ".." {
			return errDotSegment
		}
		return nil
	}
	for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == "." || part == ".." {
			return errDotSegment
		}
		if name != "stateKey" && strings.EqualFold(part, "rooms") {
			return errAmbiguous
		}
	}
	return nil
}

// appendSegment encodes a decoded segment: everything but RFC 3986's unreserved characters.
func appendSegment(b []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; isUnreserved(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return b
}

func isUnreserved(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
