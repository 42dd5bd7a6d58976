package controlroom

import "testing"

// A mark of an earlier release comes off a token; what only looks like one is the homeserver's.
func TestMarks(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"s1", "", "s1.e2ee-proxy.", "s1.e2ee-proxy.x", ".e2ee-proxy.-1", "s~1_2.3"} {
		if Plain(token) != token || Plain(token+".e2ee-proxy.41") != token {
			t.Errorf("%q is read as %q, with a mark as %q", token, Plain(token), Plain(token+".e2ee-proxy.41"))
		}
	}
}
