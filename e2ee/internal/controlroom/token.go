package controlroom

import (
	"hash/maphash"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"
)

// What a device has is known by the token that it comes with: by what is stored of the answers
// that showed something, and by what is in memory of the latest of all.

// maxTold is of how many of these it is known.
const maxTold = 12

// tokens are the latest that a device was given, the newest first, and what it has with each.
type tokens [maxTold]struct {
	token uint64 // its hash
	to    Mark
}

// told returns what a device has with a token that it was given.
func (a *Account) told(r *Room, dev id.DeviceID, token string) (m Mark, known bool) {
	for _, sent := range r.Seen[dev].Sent {
		if sent.At == token {
			return sent.To, true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if given := a.tokens[dev]; given != nil {
		hash := maphash.String(a.seed, token)
		for i := range given {
			if given[i].token == hash {
				return given[i].to, true
			}
		}
	}
	return m, false
}

// has returns what a device certainly has that comes with a token.
func (a *Account) has(r *Room, dev id.DeviceID, token string) Mark {
	if token == "" {
		return Mark{}
	}
	if m, known := a.told(r, dev, token); known {
		return m
	}
	return r.Seen[dev].Have
}

// tell records that a device is given a token.
func (a *Account) tell(dev id.DeviceID, token string, to Mark) {
	a.mu.Lock()
	defer a.mu.Unlock()
	given := a.tokens[dev]
	if given == nil {
		if a.tokens == nil || len(a.tokens) >= maxDevices {
			a.tokens = make(map[id.DeviceID]*tokens)
		}
		given = new(tokens)
		a.tokens[dev] = given
	}
	hash := maphash.String(a.seed, token)
	for i := range given {
		if given[i].token == hash {
			return // it stands for what was shown with it first
		}
	}
	copy(given[1:], given[:])
	given[0].token, given[0].to = hash, to
}

// An earlier version ended an answer with something of the proxy's, whose token the client had
// already, with that token and a mark. Clients may still come with one of those: it is read, and
// never made any more.

// mark stands between the homeserver's token and a number.
const mark = ".e2ee-proxy."

// Plain returns the homeserver's token.
func Plain(token string) string {
	at := strings.LastIndex(token, mark)
	if at < 0 {
		return token
	}
	if _, err := strconv.ParseUint(token[at+len(mark):], 10, 63); err != nil {
		return token
	}
	return token[:at]
}
