package proxy

import "testing"

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
