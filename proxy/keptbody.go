package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// Rules of this file:
//   - What is sent to another process may have to be sent again. A small body is kept for that; a
//     large one is sent only when the other process asks for it, and then cannot be repeated.
//   - What is kept counts against the memory for bodies. What has no room is not kept.

// mostKept is the largest body that is kept to be sent again: that of an event.
const mostKept = smallBody

var errNotKept = errors.New("the request body was not kept")

// keptBody is a request's body that can be read from its beginning again, as long as it is kept.
type keptBody struct {
	length int64
	most   int64
	give   func()

	// latest is the try that may read; the earlier ones have ended.
	latest atomic.Int64
	// mu is held while the client is read: a try that was given up may still wait for it, and
	// what it reads belongs to the next.
	mu   sync.Mutex
	from io.Reader // nil without a body
	kept []byte
	read int64
	err  error // how it ended
}

// keep returns the body of a request so that it can be read again, if it is small.
func (p *Proxy) keep(q *request) *keptBody {
	k := &keptBody{give: func() {}}
	if q.body == nil {
		return k
	}
	k.from, k.length = q.body, q.r.ContentLength
	if k.length <= 0 || k.length > mostKept || q.from != "" {
		return k
	}
	owner := p.memoryOwner(q)
	if p.memory.Take(owner, k.length) == nil {
		k.most, k.give = k.length, func() { p.memory.Release(owner, k.length) }
	}
	return k
}

func (k *keptBody) release() { k.give() }

// whole reports whether it can be read from its beginning.
func (k *keptBody) whole() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.read == int64(len(k.kept))
}

// setTo makes it the body of a request.
func (k *keptBody) setTo(r *http.Request) {
	if k.from == nil {
		r.Body, r.ContentLength = nil, 0
		return
	}
	r.Body = k.again()
	if k.most > 0 {
		n := k.latest.Load()
		r.GetBody = func() (io.ReadCloser, error) { return &bodyTry{k: k, n: n}, nil }
	}
}

// again returns a reader from the beginning. Those before it have ended.
func (k *keptBody) again() io.ReadCloser { return &bodyTry{k: k, n: k.latest.Add(1)} }

// settle ends all readers, and waits for one that still reads.
func (k *keptBody) settle() {
	k.latest.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
}

// bodyTry reads a body from its beginning.
type bodyTry struct {
	k  *keptBody
	n  int64
	at int64
}

func (t *bodyTry) Read(b []byte) (int, error) {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case t.n != k.latest.Load():
		return 0, http.ErrBodyReadAfterClose
	case t.at < int64(len(k.kept)):
		n := copy(b, k.kept[t.at:])
		t.at += int64(n)
		return n, nil
	case t.at != k.read:
		return 0, errNotKept
	case k.err != nil:
		return 0, k.err
	}
	n, err := k.from.Read(b)
	if k.read == int64(len(k.kept)) && k.read+int64(n) <= k.most {
		k.kept = append(k.kept, b[:n]...)
	}
	k.read += int64(n)
	t.at, k.err = t.at+int64(n), err
	return n, err //nolint:wrapcheck // an io.Reader passes errors on
}

// Close does nothing: the client's body is the server's to close, and the next try may begin at
// once.
func (t *bodyTry) Close() error { return nil }
