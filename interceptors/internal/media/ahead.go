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

// piecesAhead is how many pieces of one file are in memory. Two goroutines, who decrypts and who sends,
// need so many not to wait for each other all the time; a third one costs more in waiting than it does.
const piecesAhead = 6

// reading reads a file piece by piece.
type reading struct {
	ready chan piece
	spare chan []byte // what may be filled; closed when nobody wants more
}

// read starts to read. Its goroutine ends with the first error of the reader, or when spare is
// closed; then ready is closed.
func read(from io.Reader) *reading {
	size := int64(attachment.Piece)
	if limited, ok := from.(*io.LimitedReader); ok {
		size = max(1, min(size, limited.N))
	}
	r := &reading{make(chan piece, piecesAhead), make(chan []byte, piecesAhead)}
	go func() {
		defer close(r.ready)
		for made := 0; ; {
			var buf []byte
			if made < piecesAhead {
				made++
				buf = make([]byte, size)
			} else if buf = <-r.spare; buf == nil {
				return
			}
			n, err := io.ReadFull(from, buf)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF
			}
			r.ready <- piece{buf[:n], err}
			if err != nil {
				return
			}
		}
	}()
	return r
}

// end returns when the goroutine has ended.
func (r *reading) end() {
	close(r.spare)
	for range r.ready { //nolint:revive // only its end counts
	}
}

// ReadFrom implements io.ReaderFrom, so that io.Copy has nothing to do. When it returns nobody
// reads any more.
func (w ahead) ReadFrom(from io.Reader) (done int64, err error) {
	r := read(from)
	defer r.end()
	for {
		now := <-r.ready
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
		r.spare <- now.data[:cap(now.data)]
	}
}
