package config

import (
	"fmt"
	"net/netip"
	"time"
)

// The longest times of a decision point. One that is slower holds up messages, and an answer that
// is used for longer hides that another would be given.
const (
	maxPointTimeout = time.Minute
	maxPointCache   = time.Hour
)

func (l *loader) decisionPoint(d *DecisionPoint, offline bool) {
	const at = "policy.decision_point"
	if d.URL.IsZero() {
		if !d.Token.IsZero() || d.CAFile != "" || d.OnError != OnErrorDeny {
			l.problemAt(at, "has no url, so that nothing is asked", "set policy.decision_point.url, or remove it")
		}
		return
	}
	if d.Timeout <= 0 || d.Timeout > maxPointTimeout {
		l.problemAt(at+".timeout", "is not above 0s and up to "+maxPointTimeout.String(), "remove it to get the default")
	}
	if d.Cache < 0 || d.Cache > maxPointCache {
		l.problemAt(at+".cache", "is not from 0s to "+maxPointCache.String(), "remove it to get the default")
	}
	if u := d.URL.URL(); u.Scheme == "http" && !d.Token.IsZero() && !isHere(u.Hostname()) {
		l.problemAt(at+".url", fmt.Sprintf("is http, so that the token for %s would be sent in clear", u.Hostname()), "use https")
	}
	if d.CAFile != "" && !offline {
		l.certificates(at+".ca_file", d.CAFile)
	}
}

// isHere reports whether a host is this machine.
func isHere(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
