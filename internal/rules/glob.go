package rules

import "strings"

// glob is a pattern: * stands for any number of characters, ? for one. Everything else stands
// for itself, also what has a meaning elsewhere.
type glob struct {
	text string
	kind globKind
}

type globKind int

const (
	globPattern globKind = iota
	globLiteral          // no wildcard
	globSuffix           // one *, in the beginning
	globPrefix           // one *, at the end
	globAny              // only *
)

func newGlob(text string) glob {
	stars, marks := strings.Count(text, "*"), strings.Count(text, "?")
	switch {
	case stars+marks == 0:
		return glob{text, globLiteral}
	case text == "*":
		return glob{"", globAny}
	case stars == 1 && marks == 0 && text[0] == '*':
		return glob{text[1:], globSuffix}
	case stars == 1 && marks == 0 && text[len(text)-1] == '*':
		return glob{text[:len(text)-1], globPrefix}
	}
	return glob{text, globPattern}
}

// match reports whether the whole of s fits. It takes time proportional to the product of both
// lengths at most: a text that was made to be slow cannot make it slower.
func (g *glob) match(s string) bool {
	switch g.kind {
	case globLiteral:
		return s == g.text
	case globSuffix:
		return strings.HasSuffix(s, g.text)
	case globPrefix:
		return strings.HasPrefix(s, g.text)
	case globAny:
		return true
	case globPattern:
	}
	p, i, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(g.text) && g.text[p] == '*':
			star, from = p, i
			p++
		case p < len(g.text) && (g.text[p] == '?' || g.text[p] == s[i]):
			i += step(g.text[p], s[i:])
			p++
		case star >= 0: // let the last * stand for one more
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(g.text[p:], "*") == ""
}

// step returns how many bytes a character of a pattern stands for: ? for a whole character.
func step(pattern byte, s string) int {
	if pattern != '?' {
		return 1
	}
	for n := range s {
		if n > 0 {
			return n
		}
	}
	return len(s)
}

type globs []glob

func newGlobs(texts []string) globs {
	if texts == nil {
		return nil
	}
	out := make(globs, len(texts))
	for i, text := range texts {
		out[i] = newGlob(text)
	}
	return out
}

func (gs globs) match(s string) bool {
	for i := range gs {
		if gs[i].match(s) {
			return true
		}
	}
	return false
}

// name is the ID of a user, or the name of a server, in the two forms by which it is matched.
// Names of hosts are the same in capitals. One with a port is another server on the same host.
type name struct{ full, portless string }

// userName folds what stands after the first colon, which in a user ID is the server's name.
func userName(user string) name {
	local, server, found := strings.Cut(user, ":")
	if !found {
		return name{user, user}
	}
	n := serverName(server)
	if n.full == server {
		n.full = user
	} else {
		n.full = local + ":" + n.full
	}
	if n.portless == server {
		n.portless = user
	} else {
		n.portless = local + ":" + n.portless
	}
	return n
}

func serverName(server string) name {
	server = strings.ToLower(server)
	return name{server, server[:hostLen(server)]}
}

// hostLen returns the length of a server's name without its port. An IPv6 address has brackets.
func hostLen(server string) int {
	at := strings.LastIndexByte(server, ':')
	if at < 0 || strings.IndexByte(server[at:], ']') >= 0 {
		return len(server)
	}
	return at
}

// matchName reports whether a name fits. A rule that denies reaches every port of a host; one
// that allows is about the very server that it names.
func (gs globs) matchName(n name, effect Effect) bool {
	return gs.match(n.full) || effect == Deny && n.full != n.portless && gs.match(n.portless)
}
