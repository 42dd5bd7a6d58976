package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// Rules of this file:
//   - What is said names what is no longer to be believed, as keyed hashes or user IDs, and never
//     a token. Who hears it asks the homeserver again: a false one costs a question.
//   - It is said to all who live, at once, and is not repeated: who cannot be reached now does not
//     hear it.

const (
	pathDropped = "/v1/dropped"
	// droppedWait is how long the others may take to hear it.
	droppedWait = 2 * time.Second
	// maxDropped is the largest body, in bytes.
	maxDropped = 64 << 10
)

// droppedBody is what is dropped.
type droppedBody struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// TellDropped tells all replicas that live that something of a kind is no longer to be believed.
// It returns when they have heard it, or have not.
func (n *Node) TellDropped(ctx context.Context, kind, name string) {
	raw, err := json.Marshal(droppedBody{kind, name})
	if err != nil || len(raw) > maxDropped {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, droppedWait)
	defer cancel()
	n.mu.Lock()
	all := make([]*peer, 0, len(n.peers))
	for _, p := range n.peers {
		all = append(all, p)
	}
	n.mu.Unlock()
	var told sync.WaitGroup
	for _, p := range all {
		told.Go(func() { n.tellDropped(ctx, p, raw) })
	}
	told.Wait()
}

func (n *Node) tellDropped(ctx context.Context, to *peer, raw []byte) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://replica/", bytes.NewReader(raw))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.exchange(req, to.Replica, pathDropped, "dropped")
	if err == nil {
		_ = resp.Body.Close() // nothing is wanted of it
		return
	}
	n.o.Log.Warn().Err(err).Msg("another replica was not told what is no longer to be believed: it may take a token that was logged out for a minute longer")
}

// dropped hears what another replica has dropped.
func (s *Server) dropped(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDropped))
	var b droppedBody
	if err != nil || json.Unmarshal(raw, &b) != nil || b.Kind == "" || b.Name == "" {
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", "What was dropped cannot be read.")
		return
	}
	s.requests.Dropped(b.Kind, b.Name)
	Answered(w)
	writeJSON(w, http.StatusOK, struct{}{})
}
