package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/ops"
)

// Reported: a homeserver setting that names a website was taken for a homeserver that is
// away. What answers and is no homeserver is told from one that is in trouble.
func TestWhatIsAHomeserver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
		want   string
	}{
		{200, `{"versions":["v1.11"],"unstable_features":{}}`, ""},
		{200, `<html>Welcome</html>`, wordNotHomeserver},
		{200, `{}`, wordNotHomeserver},
		{200, `{"versions":[]}`, wordNotHomeserver},
		{404, `<html>Not found</html>`, wordNotHomeserver},
		{404, `{"errcode":"M_UNRECOGNIZED"}`, wordNotHomeserver},
		{301, ``, wordNotHomeserver},
		{403, `<html>Are you human?</html>`, "failing"},
		{502, `<html>Bad gateway</html>`, "failing"},
		{503, `{"errcode":"M_UNKNOWN"}`, "failing"},
		{429, `{"errcode":"M_LIMIT_EXCEEDED"}`, "failing"},
	} {
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		cfg := config.Default()
		if err := cfg.Homeserver.UnmarshalText([]byte(hs.URL)); err != nil {
			t.Fatal(err)
		}
		err := homeserverAnswers(&cfg, hs.Client())(t.Context())
		hs.Close()
		var failure *ops.WordedError
		switch named := errors.As(err, &failure); {
		case c.want == "" && err != nil, c.want == "failing" && (err == nil || named), c.want == wordNotHomeserver && (!named || failure.Word != c.want):
			t.Errorf("%d %s: %v, want %q", c.status, c.body, err, c.want)
		case named && !strings.Contains(err.Error(), "is no Matrix homeserver"):
			t.Errorf("%d %s: the error is %q", c.status, c.body, err)
		}
	}
}

// "ready to serve" is said once, and not before it is so.
func TestReadyIsSaidWhenItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		up := time.Now().Add(time.Minute)
		ready := ops.NewReadiness(func(string, error) {}, ops.Probe{Name: "homeserver", OnlyFirst: true, Run: func(context.Context) error {
			if time.Now().Before(up) {
				return errors.New("away")
			}
			return nil
		}})
		log := zerolog.New(&out)
		if err := logWhenReady(t.Context(), ready, log.Info()); err != nil {
			t.Fatal(err)
		}
		if late := time.Since(up); late < 0 || late > announcePauses().Last+time.Second {
			t.Errorf("said %s after it was so", late)
		}
		if n := strings.Count(out.String(), "ready to serve"); n != 1 {
			t.Errorf("said %d times: %s", n, &out)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		out.Reset()
		never := ops.NewReadiness(func(string, error) {}, ops.Probe{Name: "database", Run: func(context.Context) error { return errors.New("away") }})
		if err := logWhenReady(ended, never, log.Info()); err != nil || out.Len() > 0 {
			t.Errorf("a process that ends says %q, %v", &out, err)
		}
	})
}
