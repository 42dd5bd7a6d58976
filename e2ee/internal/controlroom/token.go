package controlroom

import (
	"strconv"
	"strings"
)

// A homeserver's token stays the same while nothing happens there, and then some clients take
// an answer for one that they have had, and drop what is in it (matrix-nio does). So an answer
// with something of the proxy's, and with the token that the client came with, ends with that
// token and a mark. The mark is taken off before a token goes to the homeserver.

// mark stands between the homeserver's token and a number.
const mark = ".e2ee-proxy."

// Plain returns the homeserver's token.
func Plain(token string) string {
	plain, _ := split(token)
	return plain
}

func split(token string) (plain string, n uint64) {
	at := strings.LastIndex(token, mark)
	if at < 0 {
		return token, 0
	}
	n, err := strconv.ParseUint(token[at+len(mark):], 10, 63)
	if err != nil {
		return token, 0
	}
	return token[:at], n
}

// Marked returns another token than the one that the client came with, for the same place.
func Marked(token string) string {
	plain, n := split(token)
	return plain + mark + strconv.FormatUint(n+1, 10)
}
