package proxy

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
)

// Attack vector: a client without encryption uploads a file on a path that the table does not
// have: one of a proposal before it had a version, an older spelling, or with something behind it
// that a homeserver does not look at. It would arrive in clear, for whatever room it is.
//
// Expected: writes that could be uploads pass on the table's rows alone. Reads pass.
func TestNoUploadByAnyOtherPath(t *testing.T) {
	t.Parallel()
	tab := testTable(t)
	for _, path := range []string{
		"/_matrix/media/unstable/fi.mau.msc2246/create", "/_matrix/media/unstable/fi.mau.msc2246/upload/hs/id",
		"/_matrix/media/unstable/upload", "/_matrix/media/v4/upload", "/_matrix/media/api/v1/upload", "/_matrix/media/v3/upload/name.png",
		"/_matrix/media/v3/upload/hs/id/name.png", "/_matrix/media/v1/create/x", "/_matrix/media/unstable/admin/x",
		"/_matrix/client/v1/media/upload", "/_matrix/client/v1/media/create", "/_matrix/client/unstable/org.example/media/upload/hs/id",
		"/_matrix/client/v1/Media/upload", "/_synapse/client/media/upload",
	} {
		for _, method := range []string{"POST", "PUT", "PATCH"} {
			if r, got, err := resolve(tab, method, path); err == nil && (r == nil || r.class == classPass) {
				t.Errorf("%s %s passes as %q", method, path, got)
			}
		}
	}
	if _, _, err := resolve(tab, "GET", "/_matrix/client/v1/media/novelty"); err != nil {
		t.Errorf("a new read is refused: %v", err)
	}
}

// Attack vector: with a file that is encrypted on the way, its client sends the name of the clear
// one, or its hash, by which everybody who has the same file knows it.
//
// Expected: nothing that the client says of its own body goes with another one.
func TestNothingOfTheClearFileGoesWithTheEncryptedOne(t *testing.T) {
	t.Parallel()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://hs/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Content-Disposition", "Content-MD5", "Content-Digest", "Repr-Digest", "Digest", "Content-Language", "Content-Encoding", "Content-Length", "Content-Location", "Slug"} {
		req.Header.Set(name, canary)
	}
	req.Header.Set("Authorization", "Bearer x")
	req.Trailer = http.Header{"Digest": {canary}}
	setStream(req, interceptors.Change{Stream: strings.NewReader("sealed"), Length: 6, ContentType: "application/octet-stream"})
	for name, values := range req.Header {
		if strings.Contains(strings.Join(values, ""), canary) {
			t.Errorf("%s goes up", name)
		}
	}
	if req.Trailer != nil || req.Header.Get("Content-Type") != "application/octet-stream" || req.Header.Get("Authorization") == "" {
		t.Errorf("goes up with %v, %v", req.Header, req.Trailer)
	}
}
