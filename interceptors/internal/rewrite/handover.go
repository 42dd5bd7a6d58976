package rewrite

import (
	"errors"
	"io"
	"sync"
)

// writeAtOnce is how much is written to a client by one call, in bytes: it must get that within
// limits.idle_timeout.
const writeAtOnce = 32 << 10

// handover passes what one goroutine writes to another, which reads it or has it written, without a
// copy. Each call of its writer waits until the other has taken all of it.
type handover struct {
	parts chan [][]byte
	taken chan struct{}

	left  sync.Once
	gone  chan struct{} // nobody takes any more
	ended chan struct{} // nothing follows
	err   error         // why, after ended

	now [][]byte // what is being taken
}

func newHandover() *handover {
	return &handover{parts: make(chan [][]byte), taken: make(chan struct{}, 1), gone: make(chan struct{}), ended: make(chan struct{})}
}

// Write implements io.Writer.
func (h *handover) Write(p []byte) (int, error) {
	if err := h.WriteParts([][]byte{p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteParts implements [jsonscan.PartsWriter].
func (h *handover) WriteParts(all [][]byte) error {
	select {
	case h.parts <- all:
	case <-h.gone:
		return io.ErrClosedPipe
	}
	select {
	case <-h.taken:
		return nil
	case <-h.gone:
		return io.ErrClosedPipe
	}
}

// end says that nothing follows, because of an error or, if that is nil, because it was all. It is
// called once, by who writes.
func (h *handover) end(err error) {
	h.err = err
	if err == nil {
		h.err = io.EOF
	}
	close(h.ended)
}

// leave says that nobody takes any more. What waits in a call of the writer returns.
func (h *handover) leave() { h.left.Do(func() { close(h.gone) }) }

// next waits for parts, if there are none.
func (h *handover) next() error {
	for len(h.now) == 0 {
		select {
		case h.now = <-h.parts:
			h.done(0)
		case <-h.ended:
			return h.err
		}
	}
	return nil
}

// done says that the first n bytes of the first part were taken.
func (h *handover) done(n int) {
	if len(h.now) > 0 {
		h.now[0] = h.now[0][n:]
	}
	for len(h.now) > 0 && len(h.now[0]) == 0 {
		h.now = h.now[1:]
	}
	if len(h.now) == 0 {
		h.taken <- struct{}{}
	}
}

// Read implements io.Reader.
func (h *handover) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := h.next(); err != nil {
		return 0, err
	}
	n := copy(p, h.now[0])
	h.done(n)
	return n, nil
}

// WriteTo implements io.WriterTo.
func (h *handover) WriteTo(w io.Writer) (done int64, err error) {
	for {
		if err := h.next(); errors.Is(err, io.EOF) {
			return done, nil
		} else if err != nil {
			return done, err
		}
		n, err := w.Write(h.now[0][:min(len(h.now[0]), writeAtOnce)])
		done += int64(n)
		if err != nil {
			return done, err //nolint:wrapcheck // an io.WriterTo passes errors on
		}
		h.done(n)
	}
}

// relayed is the body of an answer: its beginning, and what is handed over.
type relayed struct {
	first []byte
	rest  *handover
	io.Closer
}

func (r *relayed) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.rest.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *relayed) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.first)
	if r.first = r.first[n:]; err != nil {
		return int64(n), err //nolint:wrapcheck // an io.WriterTo passes errors on
	}
	more, err := r.rest.WriteTo(w)
	return int64(n) + more, err
}
