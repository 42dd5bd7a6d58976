package rewrite

import (
	"testing"

	"e2ee-proxy/interceptors/internal/bundled"
	"e2ee-proxy/internal/jsonscan"
)

// No imitation of a notice gets past the quick look at what was noted of an event.
func FuzzMayImitate(f *testing.F) {
	for _, s := range []string{
		`{"sender":"@x:e2ee-proxy.invalid"}`, `{"event_id":"$x:e2ee-proxy.invali\u0064","type":"m.x"}`, `{"state_key":"@x:e2ee\u002dproxy.invalid"}`,
		`{"sender":"@x:e2ee-proxy.invalid","sender":"@x:hs"}`, `{"\u0073ender":"@x:e2ee-proxy.invalid"}`,
		`{"unsigned":{"redacted_because":{"sender":"@x:e2ee-proxy.invalid"}}}`, `{"redacted\u005fbecause":{"event_id":"$x:e2ee-proxy.invalid"}}`,
		`{"unsigned":{"redacted_because":{"redacted_because":{"sender":"@x:e2ee-proxy.invalid"}}}}`, `{"sender":["@x:e2ee-proxy.invalid"]}`,
		`{"sender":"","event_id":"d\"","state_key":"4"}`, `["@x:e2ee-proxy.invalid"]`, `"@x:e2ee-proxy.invalid"`,
	} {
		f.Add([]byte(s))
	}
	shape := Shape{Room: RoomOfPath, Places: []Place{{Path: "*"}}}
	graph, all := shape.graph(), newGraphs()
	f.Fuzz(func(t *testing.T, event []byte) {
		body := append(append([]byte(`[`), event...), ']')
		_ = jsonscan.ScanBytes(body, graph, jsonscan.Options{Watch: bundled.Watched()}, func(v *jsonscan.Value) error { // it may be no JSON
			if all.imitates(v.Raw) && !mayImitate(v) {
				t.Errorf("%s was let pass", v.Raw)
			}
			return nil
		})
	})
}
