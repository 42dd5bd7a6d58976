package proxy

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// Rules of this file:
//   - Who may open the local socket may act for every user whose device the proxy holds, and
//     says for which: ?user=USER&device=DEVICE, where no device means the one used last. Only
//     this listener reads that.
//   - Nothing but the control API is there, and no access token is taken: it would say
//     something else about who is asking.
//   - From then on the request is like one that came with the device's access token.

// held is for whom a request of the local socket is made.
type held struct {
	user   id.UserID
	device id.DeviceID
}

// Local returns the handler of the control API for those who need no access token, because
// they were recognised in another way: the user and the device stand in the query. It must
// not be reachable by anybody else. Its requests must have ended before [Proxy.Close].
func (p *Proxy) Local() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.answer(w, r, &request{id: requestID{prefix: p.idPrefix, n: p.ids.next()}, local: true})
	})
}

// ServeLocal answers the connections of a socket that only the machine's owner may open, until
// ctx is done, and then drains as [Proxy.Serve] does.
func (p *Proxy) ServeLocal(ctx context.Context, ln net.Listener) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := p.server(requests)
	var active sync.WaitGroup
	answer := p.Local()
	server.Handler, server.TLSConfig, server.Protocols = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		active.Add(1)
		defer active.Done()
		answer.ServeHTTP(w, r)
	}), nil, nil
	return p.serveUntil(ctx, server, cut, &active, func() error { return server.Serve(ln) })
}

// readHeld takes the user and the device out of the query.
func (q *request) readHeld(hasToken bool) error {
	if hasToken || q.r.Header.Get("Authorization") != "" {
		return apierr.InvalidParam("This socket takes no access token.").WithHint("Name the user and the device: ?user=@bot:example.org&device=DEVICE.")
	}
	all, err := url.ParseQuery(q.query)
	if err != nil {
		return apierr.InvalidParam("The query cannot be parsed.").Because(err)
	}
	if len(all["user"]) > 1 || len(all["device"]) > 1 {
		return apierr.InvalidParam("The query names more than one user or device.")
	}
	q.held = held{id.UserID(all.Get("user")), id.DeviceID(all.Get("device"))}
	all.Del("user")
	all.Del("device")
	q.query = all.Encode()
	return nil
}

// anywhere reports whether every process of a cluster can answer a request alike.
func (q *request) anywhere() bool { return q.local && q.route.handler == interceptors.ControlDevices }

// identifyHeld does step 5 for the local socket.
func (p *Proxy) identifyHeld(q *request) error {
	if q.held.user == "" {
		return apierr.MissingParam("user is missing: for whom is this?").WithHint("Write ?user=@bot:example.org.")
	}
	if q.anywhere() {
		q.who = interceptors.Identity{UserID: q.held.user, Held: true}
		return nil
	}
	who, err := p.devices.HeldIdentity(q.r.Context(), q.held.user, q.held.device)
	if err != nil {
		return err //nolint:wrapcheck // it is one for the client
	}
	q.who = who
	q.cred.token = who.Token.Reveal()
	q.r.Header.Set("Authorization", "Bearer "+q.cred.token) // for the process that has the account
	return nil
}
