package interceptors

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// relayed answers a client that is a recorder.
type relayed struct{ Upstream }

func (relayed) Relay(x *Exchange, resp *http.Response) error {
	_, err := io.Copy(x.Writer, resp.Body)
	return err
}

// rewriterOf returns the rewriter of an endpoint whose bodies have a shape.
func rewriterOf(shape *rewrite.Shape, o SyncOptions) *rewrite.Rewriter {
	return rewrite.New(*shape, o.withSpools().rewriting())
}

// bodyOf returns what becomes of an answer, when the client asked for the event $e.
func bodyOf(t *testing.T, by *rewrite.Rewriter, body string) (string, error) {
	t.Helper()
	b, err := by.Read(strings.NewReader(body), rewrite.Pass{Owner: alice, Room: encryptedRoom, Event: "$e"})
	if err != nil {
		return "", err
	}
	rec := httptest.NewRecorder()
	x := &Exchange{Writer: rec, Request: httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody), Upstream: relayed{}}
	dev := &readDevice{fakeDevice: newFakeDevice(e2ee.ModeProxied)}
	err = b.Relay(x, &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, rewrite.Output{Device: dev})
	if closed := b.Close(); closed != nil {
		t.Error(closed)
	}
	if err == nil && !json.Valid(rec.Body.Bytes()) {
		t.Errorf("%s became %s", body, rec.Body)
	}
	return rec.Body.String(), err
}

// onePlace is a place of events of one endpoint.
type onePlace struct {
	*rewrite.Place
	shape *rewrite.Shape
	by    *rewrite.Rewriter
}

// show returns what an event at the place becomes; nil when it is left out, or there is no
// answer.
func (p *onePlace) show(t *testing.T, event any) map[string]any {
	t.Helper()
	at := event
	if !isAlone(p.Place) {
		at = []any{event}
	}
	out, err := bodyOf(t, p.by, bodyWith(t, p.shape, p.Place, at))
	if said, ok := errors.AsType[*apierr.Error](err); ok && said.Status == http.StatusNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var shown any
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		t.Fatal(err)
	}
	for _, step := range pathOf(p.Place) {
		switch list, _ := shown.([]any); {
		case step == "*" && len(list) == 0:
			return nil
		case step == "*":
			shown = list[0]
		default:
			if step == "{}" {
				step = encryptedRoom.String()
			}
			object, _ := shown.(map[string]any)
			shown = object[step]
		}
	}
	object, _ := shown.(map[string]any)
	return object
}

// everyPlace runs a test at each place of events of each endpoint, /sync among them, that has
// one of these kinds.
func everyPlace(t *testing.T, do func(t *testing.T, p *onePlace), kinds ...rewrite.Kind) {
	t.Helper()
	all := allShapes()
	n := 0
	for _, handler := range slices.Sorted(maps.Keys(all)) {
		shape := all[handler]
		by := rewriterOf(&shape, SyncOptions{})
		for i := range shape.Places {
			p := &onePlace{Place: &shape.Places[i], shape: &shape, by: by}
			if !slices.Contains(kinds, p.Kind) {
				continue
			}
			n++
			t.Run(handler+" "+p.Path, func(t *testing.T) {
				t.Parallel()
				do(t, p)
			})
		}
	}
	if n < 20 {
		t.Errorf("%d places", n)
	}
}

// holdsText reports whether a text is anywhere in a value.
func holdsText(v any, text string) bool {
	raw, err := json.Marshal(v)
	return err != nil || strings.Contains(string(raw), text)
}
