package proxy

import (
	"net/http"
	"net/url"

	"e2ee-proxy/cluster"
	"e2ee-proxy/interceptors"
)

// intercept hands the request to the handler of its route.
func (p *Proxy) intercept(q *request) error {
	ctx := q.r.Context()
	if p.owners != nil {
		ctx = cluster.WithRequest(ctx, q.id.String(), q.holds)
	}
	ctx = p.log.With().Str("request_id", q.id.String()).Str("route", q.route.pattern).Logger().WithContext(ctx)
	r := q.r.WithContext(ctx)
	if r.Method == http.MethodHead {
		r.Method = http.MethodGet // the server omits the body of the answer
	}
	r.URL = &url.URL{Opaque: q.path, RawQuery: q.query}
	params := make(map[string]string, len(q.route.params))
	for i, name := range q.route.params {
		params[name] = q.values[i]
	}
	x := &interceptors.Exchange{
		Writer:   q.w,
		Request:  r,
		Endpoint: interceptors.Endpoint{Pattern: q.route.pattern, Version: q.version, Params: params},
		Identity: q.who,
		Upstream: upstream{p, q},
		Devices:  p.devices,
	}
	if p.owners != nil {
		x.RequestID, x.Again = q.id.String(), q.again
	}
	run := q.route.run
	if q.namesNotice() {
		run = p.ownNames
	}
	if err := run(x); err != nil {
		return err //nolint:wrapcheck // the handler's error is the whole story
	}
	if q.route.endsSessions && q.w.status/100 == 2 {
		p.endSessions(q)
	}
	return nil
}

// namesNotice reports whether the path names a notice of the proxy, a control room, or who
// speaks there: only the proxy knows them.
func (q *request) namesNotice() bool {
	if q.route.class == classOwn {
		return false
	}
	for i := range q.route.params {
		if interceptors.IsOwnName(q.values[i]) {
			return true
		}
	}
	return false
}

// endSessions drops the cached tokens of a user after some of the user's sessions have
// ended.
func (p *Proxy) endSessions(q *request) {
	if q.who.UserID != "" {
		p.identities.dropUser(q.who.UserID)
	}
	if q.cred.token != "" {
		p.identities.drop(q.cred.token)
	}
}
