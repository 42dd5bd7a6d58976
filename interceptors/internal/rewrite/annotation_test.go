package rewrite

import (
	"testing"

	"e2ee-proxy/interceptors/internal/filter"
)

// What the proxy says of an event is shown whatever fields the client's filter keeps.
func TestNoFilterLeavesOutTheAnnotation(t *testing.T) {
	t.Parallel()
	f, err := filter.Parse([]byte(`{"event_fields":["type"]}`), AnnotationPaths()...)
	if err != nil {
		t.Fatal(err)
	}
	const event = `{"type":"m.x","content":{},"unsigned":{"age":1,"` + nameTrust + `":{"color":"red"}},"decrypted":true}`
	got, err := f.Tree.Project([]byte(event))
	if want := `{"type":"m.x","unsigned":{"` + nameTrust + `":{"color":"red"}},"decrypted":true}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
