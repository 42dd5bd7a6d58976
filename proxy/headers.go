package proxy

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"e2ee-proxy/internal/endtoend"
)

var errUpgrade = errors.New("protocol upgrade is not supported")

// cleanHeader normalizes a request's header before it is judged and sent upstream, so that
// both see the same: hop-by-hop fields and those that Connection names are removed first,
// then every field that claims something about the client or changes the request's target,
// unless the peer is trusted. Of the fields that claim the same, those remain that are read:
// Forwarded, or X-Forwarded-… and X-Real-IP.
func cleanHeader(h http.Header, trusted, readsForwarded bool) error {
	if _, ok := h["Upgrade"]; ok && strings.EqualFold(strings.TrimSpace(h.Get("Upgrade")), "websocket") {
		return errUpgrade
	}
	endtoend.Remove(h)
	for name := range h {
		switch name {
		case "Forwarded":
			if !trusted || !readsForwarded {
				delete(h, name)
			}
			continue
		case "X-Real-Ip":
			if !trusted || readsForwarded {
				delete(h, name)
			}
			continue
		case "X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url":
			delete(h, name)
			continue
		}
		if strings.HasPrefix(name, "X-Forwarded-") && (!trusted || readsForwarded) {
			delete(h, name)
		} else if strings.IndexByte(name, '_') >= 0 || strings.IndexByte(name, '.') >= 0 {
			// Some software reads X_Forwarded_For or Remote.User as the real name.
			delete(h, name)
		}
	}
	return nil
}

// peer returns the address of the connection's other end.
func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // not a TCP connection; nobody is trusted
	}
	return ap.Addr().Unmap()
}

func (p *Proxy) isTrusted(addr netip.Addr) bool {
	for _, prefix := range p.trusted {
		if addr.IsValid() && prefix.Contains(addr) {
			return true
		}
	}
	return false
}
