package media

import (
	"errors"
	"io"
	"net/http"

	"e2ee-proxy/e2ee/attachment"
)

// ahead is the writer of an answer with a file: while the client takes one piece, the next ones
// are read and decrypted.
type ahead struct{ http.ResponseWriter }

// piece is what a read returned.
type piece struct {
	data []byte
	err  error
}

const (
	// lanes is how many goroutines decrypt one file, and inLane how many pieces each of them has.
	lanes, inLane = 2, 2
)

// lane reads some of the pieces of a file, in their order.
type lane struct {
	ready chan piece
	spare chan []byte // what may be filled; closed when nobody wants more
}

// newLane starts a lane. Its goroutine ends with the first error that read returns, or when spare is
// closed; then ready is closed.
func newLane(size int64, read func([]byte) (int, error)) *lane {
	l := &lane{make(chan piece, inLane), make(chan []byte, inLane)}
	go func() {
		defer close(l.ready)
		for made := 0; ; made++ {
			var buf []byte
			if made < inLane {
				buf = make([]byte, size)
			} else if buf = <-l.spare; buf == nil {
				return
			}
			n, err := read(buf)
			l.ready <- piece{buf[:n], err}
			if err != nil {
				return
			}
		}
	}()
	return l
}

// end returns when the lane's goroutine has ended.
func (l *lane) end() {
	close(l.spare)
	for range l.ready { //nolint:revive // only its end counts
	}
}

// ReadFrom implements io.ReaderFrom, so that io.Copy has nothing to do. When it returns nobody
// reads any more.
func (w ahead) ReadFrom(from io.Reader) (done int64, err error) {
	all := open(from)
	defer func() {
		for _, l := range all {
			l.end()
		}
	}()
	for at := 0; ; at++ {
		l := all[at%len(all)]
		now := <-l.ready
		n, err := w.Write(now.data)
		done += int64(n)
		switch {
		case err != nil:
			return done, err //nolint:wrapcheck // an io.ReaderFrom passes errors on
		case errors.Is(now.err, io.EOF):
			return done, nil
		case now.err != nil:
			return done, now.err
		}
		l.spare <- now.data[:cap(now.data)]
	}
}

// open starts as many lanes as there is use for.
func open(from io.Reader) []*lane {
	size := int64(attachment.Piece)
	limited, ok := from.(*io.LimitedReader)
	if ok {
		size = max(1, min(size, limited.N))
		if file, ok := limited.R.(*attachment.Clear); ok && limited.N > size {
			n := limited.N
			limited.N = 0
			return openFile(file, file.Skip(n), n)
		}
	}
	return []*lane{newLane(size, func(buf []byte) (int, error) {
		n, err := io.ReadFull(from, buf)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return n, err //nolint:wrapcheck // it is the reader's
	})}
}

// openFile starts the lanes of n bytes of a file: each reads one piece of so many that there are lanes.
func openFile(file io.ReaderAt, from, n int64) []*lane {
	all := make([]*lane, lanes)
	for i := range all {
		at := int64(i) * attachment.Piece
		all[i] = newLane(attachment.Piece, func(buf []byte) (int, error) {
			part := buf[:min(int64(len(buf)), max(0, n-at))]
			done, err := file.ReadAt(part, from+at)
			if done == len(part) && len(part) == len(buf) {
				err = nil // the end of the file is said by the piece behind it
			} else if err == nil {
				err = io.EOF
			}
			at += lanes * attachment.Piece
			return done, err
		})
	}
	return all
}
