package proxy

import (
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// announced returns a listener whose connections begin with a header of the PROXY protocol
// (HAProxy, versions 1 and 2), which names the client, if they come from a trusted proxy;
// one without it is closed. For everybody else the listener is what it was: a header is no
// request, and no beginning of TLS.
func (p *Proxy) announced(ln net.Listener) net.Listener {
	if !p.proxyProtocol {
		return ln
	}
	return &proxyproto.Listener{
		Listener:          ln,
		ReadHeaderTimeout: p.deadlines.Header,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			ap, err := netip.ParseAddrPort(o.Upstream.String())
			if err == nil && p.isTrusted(ap.Addr().Unmap()) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
}
