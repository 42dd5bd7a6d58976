package interceptors

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
)

// fileStore is a homeserver's store of files.
type fileStore struct {
	mu     sync.Mutex
	stored map[string][]byte // by the path below "download/"
	types  []string
	names  []string
	asked  []string
	serve  func(id string, data []byte) (int, []byte) // instead of giving it out as it is
}

func (f *fileStore) respond(s seen) (int, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stored == nil {
		f.stored = map[string][]byte{}
	}
	switch {
	case s.method == http.MethodPost && strings.HasSuffix(s.path, "/create"):
		return http.StatusOK, `{"content_uri":"mxc://hs.example/reserved"}`
	case s.method == http.MethodPost && strings.HasSuffix(s.path, "/upload"), s.method == http.MethodPut && strings.Contains(s.path, "/upload/"):
		id := fmt.Sprintf("hs.example/m%d", len(f.stored)+1)
		if _, at, ok := strings.Cut(s.path, "/upload/"); ok {
			id = at
		}
		f.stored[id] = []byte(s.body)
		f.types, f.names = append(f.types, s.contentType), append(f.names, s.query)
		return http.StatusOK, `{"content_uri":"mxc://` + id + `"}`
	case strings.Contains(s.path, "/download/"):
		_, id, _ := strings.Cut(s.path, "/download/")
		f.asked = append(f.asked, s.path)
		data, ok := f.stored[id]
		if !ok {
			return http.StatusNotFound, `{"errcode":"M_NOT_FOUND","error":"no such file"}`
		}
		if f.serve != nil {
			status, data := f.serve(id, data)
			return status, string(data)
		}
		return http.StatusOK, string(data)
	}
	return http.StatusOK, `{"event_id":"$event"}`
}

// uploads returns what was uploaded, in order.
func (f *fileStore) at(id string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stored[id]
}

func (f *fileStore) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.stored)
}

func newFileWorld(t *testing.T, mode e2ee.Mode) (*world, *fileStore) {
	t.Helper()
	w, f := newWorld(t, mode), &fileStore{}
	w.up.respond = f.respond
	return w, f
}

// uploadCall uploads a file as a client without encryption does.
func uploadCall(body string) call {
	return call{handler: UploadFile, method: http.MethodPost, pattern: "/_matrix/media/{version}/upload", body: body, query: "filename=a+" + canary + ".png", maxBody: 1 << 30}
}

// upload uploads a file and returns its URI.
func (w *world) upload(body string) string {
	w.t.Helper()
	rec, err := w.do(uploadCall(body))
	var answer struct {
		URI string `json:"content_uri"`
	}
	if err != nil || json.Unmarshal(rec.Body.Bytes(), &answer) != nil || answer.URI == "" {
		w.t.Fatalf("upload: %v, %s", err, rec.Body)
	}
	return answer.URI
}

// downloadCall downloads a file by the endpoint that needs a token.
func downloadCall(uri string) call {
	server, media, _ := strings.Cut(strings.TrimPrefix(uri, "mxc://"), "/")
	return call{
		handler: DownloadFile, method: http.MethodGet, version: "v1", pattern: "/media/download/{serverName}/{mediaId}",
		params: map[string]string{"serverName": server, "mediaId": media},
	}
}

// encryptedFile encrypts a file as another client does: what it uploads, and the file itself.
func encryptedFile(t *testing.T, uri, clear string) ([]byte, attachment.File) {
	t.Helper()
	up, err := attachment.NewUpload(strings.NewReader(clear))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := io.ReadAll(up)
	if err != nil {
		t.Fatal(err)
	}
	f, err := up.File(uri)
	if err != nil {
		t.Fatal(err)
	}
	return sealed, f
}

// knows lets the account know a file that the homeserver has, under the URI that was shown.
func (w *world) knows(t *testing.T, store *fileStore, shown, clear, mimetype, name string) attachment.File {
	t.Helper()
	id := "remote.example/" + rand.Text()
	sealed, f := encryptedFile(t, "mxc://"+id, clear)
	store.mu.Lock()
	if store.stored == nil {
		store.stored = map[string][]byte{}
	}
	store.stored[id] = sealed
	store.mu.Unlock()
	f.Type, f.Name = mimetype, name
	if err := w.dev.files.Changed(t.Context(), shown, f); err != nil {
		t.Fatal(err)
	}
	return f
}

func contains(in []byte, text string) bool { return bytes.Contains(in, []byte(text)) }
