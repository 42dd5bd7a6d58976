package e2e

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

// tape is a transport that keeps everything it was answered, byte for byte: the status
// line, the header and as much of the body as was read.
type tape struct {
	mu      sync.Mutex
	answers []*bytes.Buffer
}

func (t *tape) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	var head bytes.Buffer
	head.WriteString(resp.Proto + " " + resp.Status + "\r\n")
	if err := resp.Header.Write(&head); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers = append(t.answers, &head)
	resp.Body = taped{resp.Body, io.TeeReader(resp.Body, side{t, &head})}
	return resp, nil
}

// saw reports whether a text was in any answer.
func (t *tape) saw(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, answer := range t.answers {
		if contains(answer.Bytes(), text) {
			return true
		}
	}
	return false
}

// side is where one answer is kept.
type side struct {
	tape *tape
	to   *bytes.Buffer
}

func (s side) Write(p []byte) (int, error) {
	s.tape.mu.Lock()
	defer s.tape.mu.Unlock()
	return s.to.Write(p)
}

// taped is a body whose bytes are kept as they are read.
type taped struct {
	io.Closer
	io.Reader
}
