package interceptors

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// GET /.well-known/matrix/client points at the proxy's public URL when one is configured,
// and names no other sliding sync proxy, which would bypass this one. Everything else in it
// stays. When the homeserver has no such document, the proxy makes one.

// wellKnown handles [WellKnown].
func (s *sessions) wellKnown(x *Exchange) error {
	if s.public == nil || x.Request.Method != http.MethodGet {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return s.ownWellKnown(x)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return s.ownWellKnown(x)
	}
	raw := exchange.Peek(resp)
	if raw == nil || exchange.CheckObject(raw) != nil {
		return s.ownWellKnown(x)
	}
	changed, err := discovery(raw, s.public)
	if err != nil {
		return s.ownWellKnown(x)
	}
	exchange.ReplaceBody(resp, changed)
	return x.Upstream.Relay(x, resp)
}

// ownWellKnown answers for a homeserver that has no document: a client that asked here
// comes here.
func (s *sessions) ownWellKnown(x *Exchange) error {
	raw, err := discovery([]byte(`{"m.homeserver":{}}`), s.public)
	if err != nil {
		return err
	}
	return x.WriteJSON(json.RawMessage(raw))
}

// discovery sets the public URL in discovery information.
func discovery(raw []byte, public *url.URL) ([]byte, error) {
	base, err := json.Marshal(strings.TrimSuffix(public.String(), "/"))
	if err != nil {
		return nil, fmt.Errorf("marshal the public URL: %w", err)
	}
	found := false
	out, err := strictjson.Edit(raw, func(name string, value jsontext.Value) (jsontext.Value, error) {
		switch name {
		case "m.homeserver":
			found = true
			return withMember(value, "base_url", base)
		case "org.matrix.msc3575.proxy":
			return nil, nil
		}
		return value, nil
	})
	if err != nil || found {
		return out, err
	}
	server := jsontext.Value(`{"base_url":` + string(base) + `}`)
	return withMember(out, "m.homeserver", server)
}

// withMember sets one member of an object, at its place or at the end.
func withMember(raw []byte, name string, value []byte) ([]byte, error) {
	found := false
	out, err := strictjson.Edit(raw, func(n string, old jsontext.Value) (jsontext.Value, error) {
		if n == name {
			found = true
			return value, nil
		}
		return old, nil
	})
	if err != nil || found {
		return out, err
	}
	quoted, err := jsontext.AppendQuote(nil, name)
	if err != nil {
		return nil, fmt.Errorf("quote a member name: %w", err)
	}
	out = out[:len(out)-1]
	if len(out) > 1 {
		out = append(out, ',')
	}
	out = append(append(out, quoted...), ':')
	return append(append(out, value...), '}'), nil
}

// editMember rewrites one member of an object, if it is there.
func editMember(raw []byte, name string, edit func([]byte) ([]byte, error)) ([]byte, error) {
	return strictjson.Edit(raw, func(n string, old jsontext.Value) (jsontext.Value, error) {
		if n != name {
			return old, nil
		}
		return edit(old)
	})
}
