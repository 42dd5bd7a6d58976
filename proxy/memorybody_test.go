package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// writes records how much is written at a time, to the one side of a connection that nobody reads.
type writes struct {
	net.Conn
	sizes []int
	all   []byte
	room  int // after so many bytes the connection is broken; 0 is never
}

func (w *writes) SetWriteDeadline(time.Time) error { return nil }

func (w *writes) Write(p []byte) (int, error) {
	if w.room > 0 && len(w.all)+len(p) > w.room {
		return 0, errBroken
	}
	w.sizes, w.all = append(w.sizes, len(p)), append(w.all, p...)
	return len(p), nil
}

// A body in memory is not copied to be sent, goes out in pieces that each have their time, and never
// has more of it sent than was announced.
func TestBodyInMemoryIsSentInPieces(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, mostPiece, 2*mostPiece + 5} {
		for _, announced := range []int{size, size + 3, size / 2} {
			want := bytes.Repeat([]byte("piece"), size/5+1)[:size]
			to := &writes{}
			n, err := (&writeDeadlineConn{to, time.Minute}).ReadFrom(io.LimitReader(bytes.NewReader(want), int64(announced)))
			if sent := min(size, announced); err != nil || n != int64(sent) || !bytes.Equal(to.all, want[:sent]) {
				t.Errorf("%d of %d bytes: %d sent, %v", announced, size, n, err)
			}
			for _, one := range to.sizes {
				if one > mostPiece {
					t.Errorf("%d bytes are written at once", one)
				}
			}
		}
	}
	to := &writes{room: mostPiece + 1}
	n, err := (&writeDeadlineConn{to, time.Minute}).ReadFrom(io.LimitReader(bytes.NewReader(make([]byte, 3*mostPiece)), 3*mostPiece))
	if n != mostPiece || !errors.Is(err, errBroken) {
		t.Errorf("%d bytes are said to be sent: %v", n, err)
	}
}
