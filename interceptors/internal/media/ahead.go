package media

import (
	"errors"
	"io"
	"net/http"

	"e2ee-proxy/e2ee/attachment"
)

// ahead is the writer of an answer with a file: while the client takes one piece, the next one is
// read and decrypted.
type ahead struct{ http.ResponseWriter }

// piece is what a read returned.
type piece struct {
	data []byte
	err  error
}

// ReadFrom implements io.ReaderFrom, so that io.Copy has nothing to do. When it returns nobody
// reads any more.
func (w ahead) ReadFrom(from io.Reader) (done int64, err error) {
	size := int64(attachment.Piece)
	if limited, ok := from.(*io.LimitedReader); ok {
		size = max(1, min(size, limited.N))
	}
	read := func(buf []byte) piece {
		n, err := io.ReadFull(from, buf)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return piece{buf[:n], err}
	}
	now, spare := read(make([]byte, size)), []byte(nil)
	for {
		var next chan piece
		if now.err == nil {
			if spare == nil {
				spare = make([]byte, size)
			}
			next = make(chan piece, 1)
			go func(buf []byte) { next <- read(buf) }(spare)
		}
		n, err := w.Write(now.data)
		done += int64(n)
		if next == nil {
			if err == nil && !errors.Is(now.err, io.EOF) {
				err = now.err
			}
			return done, err //nolint:wrapcheck // an io.ReaderFrom passes errors on
		}
		spare, now = now.data[:size], <-next
		if err != nil {
			return done, err //nolint:wrapcheck // as above
		}
	}
}
