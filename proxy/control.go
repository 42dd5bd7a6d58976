package proxy

import (
	"net/http"
	"net/url"

	"e2ee-proxy/interceptors"
)

// own reports whether a target is in the part of the URL space that is the proxy's own.
// Nothing of it ever goes to the homeserver.
func (t *target) own() bool { return t.segs[0] == "_e2ee_proxy" }

// ownPath writes a path of the control API that no row fits anew. What has no canonical
// form is no path of it.
func (t *target) ownPath() (string, error) {
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

// noCall refuses what no row of the control API fits: the API itself says whether it is
// the path or the method.
func (p *Proxy) noCall(q *request, t *target) error {
	path, err := t.ownPath()
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
