package testbrowser_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"e2ee-proxy/internal/testbrowser"
)

// The browser opens a page, finds what is on it, and says what is wrong with it.
func TestBrowser(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(`<!doctype html><html><head><title>A page</title></head><body><main><h1>Good day</h1><img src="x"><button>Press me</button></main></body></html>`))
	}))
	t.Cleanup(server.Close)
	p := testbrowser.Start(t).Open(testbrowser.Look{})
	if status := p.Goto(server.URL); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	p.Wants("Good day", "Press me")
	p.Press("Press me")
	faults := strings.Join(p.Faults(), "\n")
	for _, want := range []string{"image-alt", "html-has-lang"} {
		if !strings.Contains(faults, want) {
			t.Errorf("axe-core did not find %s in:\n%s", want, faults)
		}
	}
}
