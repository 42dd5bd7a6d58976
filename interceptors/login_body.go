package interceptors

import (
	"io"
	"sync"
)

// putBackOnce is like [Exchange.PutBack] for a body that holds a secret: the returned body overwrites
// it when it is closed, by whoever sends it.
func putBackOnce(x *Exchange, raw []byte) io.ReadCloser {
	body := &onceBody{left: raw, all: raw}
	x.Request.Body, x.Request.ContentLength = body, int64(len(raw))
	return body
}

// onceBody may be closed while it is read, as an http.RoundTripper may do.
type onceBody struct {
	mu        sync.Mutex
	left, all []byte
}

func (b *onceBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *onceBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.all)
	b.left = nil
	return nil
}
