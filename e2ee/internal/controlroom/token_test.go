package controlroom

import "testing"

// A mark makes another token of the same place, again and again, and comes off; what only looks
// like one is the homeserver's.
func TestMarks(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"s1", "", "s1.e2ee-proxy.", "s1.e2ee-proxy.x", ".e2ee-proxy.-1", "s~1_2.3"} {
		once := Marked(token)
		twice := Marked(once)
		if Plain(token) != token || Plain(once) != token || Plain(twice) != token || once == token || twice == once {
			t.Errorf("%q is marked %q and %q", token, once, twice)
		}
	}
	if got := Marked("s1.e2ee-proxy.41"); got != "s1.e2ee-proxy.42" {
		t.Errorf("marked again: %q", got)
	}
}
