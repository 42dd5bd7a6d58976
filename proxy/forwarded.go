package proxy

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Rules of this file:
//   - Whoever connects is who they are. What they say of somebody before them is believed if
//     they are trusted, and what that one says if it is trusted too: from right to left, until
//     somebody is not.
//   - One header is read, and the others that say the same are dropped, or made to say what it
//     says: a server in front sets the one and passes on what a client put into another.

// maxForwarded is how much of a Forwarded field is read, in bytes.
const maxForwarded = 8 << 10

// setForwardedFor writes who the client is, and who passed its request on, into
// X-Forwarded-For, which homeservers read. The header was cleaned before.
func (p *Proxy) setForwardedFor(r *http.Request, addr netip.Addr) {
	h := r.Header
	switch {
	case p.isTrusted(addr):
		p.setRoute(h, addr)
	case addr.IsValid():
		h["X-Forwarded-For"] = []string{addr.String()}
	}
	if r.TLS != nil && len(h["X-Forwarded-Proto"]) == 0 {
		h["X-Forwarded-Proto"] = []string{"https"}
	}
}

// setRoute writes what a trusted peer says, and those whom it vouches for.
func (p *Proxy) setRoute(h http.Header, peer netip.Addr) {
	route, claims, from := []string{peer.String()}, p.claims(h), peer
	for p.isTrusted(from) {
		said, ok := claims()
		if !ok {
			break
		}
		route, from = append(route, said.addr.String()), said.addr
		if said.proto != "" {
			h["X-Forwarded-Proto"] = []string{said.proto}
		}
	}
	delete(h, "Forwarded")
	if len(h["X-Real-Ip"]) > 0 && len(route) > 1 { // homeservers can be set up to read it
		h["X-Real-Ip"] = []string{from.String()}
	}
	slices.Reverse(route)
	h["X-Forwarded-For"] = []string{strings.Join(route, ", ")}
}

// claim is what a server says of who connected to it.
type claim struct {
	addr  netip.Addr
	proto string // http or https, if it says so
}

// claims returns a function that returns what the servers in front say, the nearest first;
// ok is false at the end, and at what names no address.
func (p *Proxy) claims(h http.Header) func() (c claim, ok bool) {
	if !p.readsForwarded {
		rest, more := strings.Join(h["X-Forwarded-For"], ","), true
		return func() (c claim, ok bool) {
			if !more {
				return c, false
			}
			last := rest
			if i := strings.LastIndexByte(rest, ','); i >= 0 {
				rest, last = rest[:i], rest[i+1:]
			} else {
				more = false
			}
			c.addr, ok = parseNode(strings.TrimSpace(last), false)
			return c, ok
		}
	}
	said := parseForwarded(strings.Join(h["Forwarded"], ","))
	return func() (c claim, ok bool) {
		if len(said) == 0 {
			return c, false
		}
		c, said = said[len(said)-1], said[:len(said)-1]
		return c, c.addr.IsValid()
	}
}

// parseForwarded reads a Forwarded field (RFC 7239 section 4). Each element has the address
// of its "for", or none where that is no address. A field that is not well-formed says nothing.
func parseForwarded(field string) []claim {
	if field == "" || len(field) > maxForwarded {
		return nil
	}
	var all []claim
	s := forwardedScanner{field}
	for {
		c, ok := s.element()
		if !ok {
			return nil
		}
		all = append(all, c)
		s.spaces()
		if s.rest == "" {
			return all
		}
		if !s.take(',') {
			return nil
		}
	}
}

// forwardedScanner reads a Forwarded field from left to right.
type forwardedScanner struct{ rest string }

// element reads the pairs of one element.
func (s *forwardedScanner) element() (c claim, ok bool) {
	seen := make(map[string]bool, 4)
	for {
		s.spaces()
		if name := strings.ToLower(s.token()); name != "" {
			if !s.take('=') || seen[name] {
				return c, false
			}
			seen[name] = true
			value, ok := s.value()
			if !ok {
				return c, false
			}
			switch name {
			case "for":
				c.addr, _ = parseNode(value, true)
			case "proto":
				if value = strings.ToLower(value); value == "http" || value == "https" {
					c.proto = value
				}
			}
		}
		s.spaces()
		if !s.take(';') {
			return c, true
		}
	}
}

func (s *forwardedScanner) spaces() { s.rest = strings.TrimLeft(s.rest, " \t") }

func (s *forwardedScanner) take(c byte) bool {
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// token reads a token (RFC 9110 section 5.6.2); empty when there is none.
func (s *forwardedScanner) token() string {
	end := 0
	for end < len(s.rest) && isTokenByte(s.rest[end]) {
		end++
	}
	out := s.rest[:end]
	s.rest = s.rest[end:]
	return out
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// value reads a token or a quoted string.
func (s *forwardedScanner) value() (string, bool) {
	if !s.take('"') {
		t := s.token()
		return t, t != ""
	}
	var b strings.Builder
	for s.rest != "" {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == '"':
			return b.String(), true
		case c == '\\' && s.rest != "":
			c = s.rest[0]
			s.rest = s.rest[1:]
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// parseNode reads an address, which may have a port behind it. In a Forwarded field one of
// IPv6 stands in brackets; some software does so in X-Forwarded-For too.
func parseNode(text string, forwarded bool) (netip.Addr, bool) {
	bracketed := strings.HasPrefix(text, "[")
	if inner, ok := strings.CutSuffix(text, "]"); ok && bracketed {
		text = inner[1:]
	} else if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().WithZone("").Unmap(), true
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || (bracketed && addr.Is4()) || (forwarded && !bracketed && addr.Is6()) {
		return netip.Addr{}, false
	}
	return addr.WithZone("").Unmap(), true
}
