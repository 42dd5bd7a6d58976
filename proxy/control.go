package proxy

import (
	"net/http"
	"net/url"

	"e2ee-proxy/interceptors"
)

// isControl reports whether a target is one of the proxy's own. None of them ever goes to the
// homeserver.
func (t *target) isControl() bool { return t.segs[0] == "_e2ee_proxy" }

// controlPath rebuilds a path of the control API that matches no row. A path without a
// canonical form is not found.
func (t *target) controlPath() (string, error) {
	if t.plainEscapes {
		return "", errNotHere
	}
	b := make([]byte, 0, 192)
	for _, seg := range t.segments() {
		value, err := decode(seg)
		if err == nil {
			err = checkParam("", value)
		}
		if err != nil {
			return "", errNotHere
		}
		b = appendSegment(append(b, '/'), value)
	}
	return string(b), nil
}

// unknownCall handles a request for the control API that matches no row: the API itself answers
// whether the path or the method is wrong.
func (p *Proxy) unknownCall(q *request, t *target) error {
	path, err := t.controlPath()
	if err != nil || p.noControl == nil {
		return refusal(errNotHere)
	}
	r := q.r.WithContext(q.r.Context())
	r.URL, r.Body = &url.URL{Opaque: path}, http.NoBody
	if err := p.noControl(&interceptors.Exchange{Writer: q.w, Request: r}); err != nil {
		return err //nolint:wrapcheck // the handler's error is the whole story
	}
	return refusal(errNotHere)
}
