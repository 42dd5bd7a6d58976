package wire

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"maunium.net/go/mautrix"

	"e2ee-proxy/internal/secret"
)

// A file goes up as it is, with its length, which homeservers demand, and with the token in the
// header. What they answer when they do not know an endpoint is told apart from a missing file.
func TestStreamSendsFiles(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	answer, status := `{"content_uri":"mxc://x/y"}`, http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	base, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	hs := NewHomeserver(base, srv.Client(), 0)
	send := func() (said string, err error) {
		err = hs.Stream(t.Context(), secret.NewString("token"), Request{
			Op: "upload", Method: http.MethodPost, Path: mautrix.MediaURLPath{"v3", "upload"}, File: []byte("a\x00b"), Patient: 1e10,
		}, func(r io.Reader) error {
			raw, err := io.ReadAll(r)
			said = string(raw)
			return err
		})
		return said, err
	}
	if said, err := send(); err != nil || said != answer {
		t.Fatalf("%q, %v", said, err)
	}
	if got.URL.Path != "/_matrix/media/v3/upload" || got.ContentLength != 3 || string(body) != "a\x00b" ||
		got.Header.Get("Content-Type") != "application/octet-stream" || got.Header.Get("Authorization") != "Bearer token" {
		t.Errorf("%s with %q of %d bytes, %v", got.URL, body, got.ContentLength, got.Header)
	}
	for said, want := range map[string]bool{`{"errcode":"M_UNRECOGNIZED"}`: true, `{"errcode":"M_NOT_FOUND"}`: false, `nothing`: false} {
		answer, status = said, http.StatusNotFound
		if _, err := send(); err == nil || Unrecognized(err) != want {
			t.Errorf("%s: %v, unrecognized %t", said, err, Unrecognized(err))
		}
	}
	if Unrecognized(nil) || Unrecognized(errors.New("other")) {
		t.Error("no answer is one of an unknown endpoint")
	}
}
