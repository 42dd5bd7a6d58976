package liar

import (
	"bytes"
	"net/http"
	"strings"
)

// The media repository: files are bytes, not JSON. A file is deleted, or changed, as a
// homeserver may.

const (
	pathUpload      = "/_matrix/media/v3/upload"
	pathDownload    = "/_matrix/client/v1/media/download/"
	pathOldDownload = "/_matrix/media/v3/download/"
)

// media answers requests about files; ok is false for others.
func (s *Server) media(r *Request) (reply Reply, ok bool) {
	name := ""
	for _, prefix := range []string{pathDownload, pathOldDownload} {
		if rest, found := strings.CutPrefix(r.Path, prefix); found {
			name = rest
		}
	}
	if r.Path != pathUpload && name == "" {
		return Reply{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.tokens[r.Token()] == nil:
		return Failure(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "Unrecognised access token"), true
	case r.Method == http.MethodPost && r.Path == pathUpload:
		id := s.newID("media")
		s.files[ServerName+"/"+id] = bytes.Clone(r.Body)
		return OK(map[string]any{"content_uri": "mxc://" + ServerName + "/" + id}), true
	case r.Method != http.MethodGet || name == "":
		return Failure(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "Unrecognized request"), true
	}
	file, there := s.files[name]
	if !there {
		return Failure(http.StatusNotFound, "M_NOT_FOUND", "Not found"), true
	}
	return Reply{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/octet-stream"}}, Body: bytes.Clone(file)}, true
}

// Files returns the files that were uploaded, by "server/id".
func (s *Server) Files() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string][]byte, len(s.files))
	for name, file := range s.files {
		all[name] = bytes.Clone(file)
	}
	return all
}

// PutFile stores a file, and removes it when it is nil.
func (s *Server) PutFile(name string, file []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if file == nil {
		delete(s.files, name)
		return
	}
	s.files[name] = bytes.Clone(file)
}
