package media

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"e2ee-proxy/e2ee/attachment"
)

var errGone = errors.New("the client is gone")

// leaving is a client that takes so many pieces.
type leaving struct {
	http.ResponseWriter
	takes int
}

func (l *leaving) Write(p []byte) (int, error) {
	if l.takes--; l.takes < 0 {
		return 0, errGone
	}
	return l.ResponseWriter.Write(p)
}

// counted counts who reads.
type counted struct {
	io.Reader
	now atomic.Int32
}

func (c *counted) Read(p []byte) (int, error) {
	c.now.Add(1)
	defer c.now.Add(-1)
	return c.Reader.Read(p)
}

// What is read ahead arrives whole and in order; where the client leaves or the file ends early
// that is said, and nobody reads any more by then.
func TestReadingAhead(t *testing.T) {
	t.Parallel()
	all := make([]byte, 5*attachment.Piece/2)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(all)
	for name, test := range map[string]struct {
		from  io.Reader
		takes int
		want  int
		err   error
	}{
		"nothing":         {bytes.NewReader(nil), 9, 0, nil},
		"a byte":          {bytes.NewReader(all[:1]), 9, 1, nil},
		"a piece":         {bytes.NewReader(all[:attachment.Piece]), 9, attachment.Piece, nil},
		"all":             {bytes.NewReader(all), 9, len(all), nil},
		"a part":          {io.LimitReader(bytes.NewReader(all), 1000), 9, 1000, nil},
		"in small pieces": {iotest.HalfReader(bytes.NewReader(all)), 9, len(all), nil},
		"a client leaves": {bytes.NewReader(all), 1, attachment.Piece, errGone},
		"it breaks off":   {io.MultiReader(bytes.NewReader(all[:attachment.Piece+7]), iotest.ErrReader(errGone)), 9, attachment.Piece + 7, errGone},
	} {
		rec, from := httptest.NewRecorder(), &counted{Reader: test.from}
		n, err := ahead{&leaving{rec, test.takes}}.ReadFrom(from)
		if !errors.Is(err, test.err) || n != int64(test.want) || !bytes.Equal(rec.Body.Bytes(), all[:test.want]) {
			t.Errorf("%s: %d bytes of %d, %v", name, n, test.want, err)
		}
		if from.now.Load() != 0 {
			t.Errorf("%s: somebody still reads", name)
		}
	}
}

// waiting is a client that takes its first piece when enough was read.
type waiting struct {
	http.ResponseWriter
	enough <-chan struct{}
	late   <-chan time.Time
}

func (w waiting) Write(p []byte) (int, error) {
	select {
	case <-w.enough:
		return w.ResponseWriter.Write(p)
	case <-w.late:
		return 0, errGone
	}
}

// reaching says when so much was read.
type reaching struct {
	io.Reader
	rest   int
	enough chan<- struct{}
}

func (r *reaching) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.rest > 0 && r.rest <= n {
		close(r.enough)
	}
	r.rest -= n
	return n, err
}

// While the client takes the first piece, the next ones are read.
func TestReadsWhileTheClientTakes(t *testing.T) {
	t.Parallel()
	all, enough := make([]byte, (piecesAhead+2)*attachment.Piece), make(chan struct{})
	client := waiting{httptest.NewRecorder(), enough, time.After(10 * time.Second)}
	n, err := ahead{client}.ReadFrom(&reaching{bytes.NewReader(all), piecesAhead * attachment.Piece, enough})
	if err != nil || n != int64(len(all)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// What is decrypted ahead is in its order, whatever part of it is asked for; one that
// cannot be read to its end breaks off there.
func TestDecryptingAhead(t *testing.T) {
	t.Parallel()
	all := make([]byte, 4*attachment.Piece+7)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(all)
	up, err := attachment.NewUpload(bytes.NewReader(all))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := io.ReadAll(up)
	if err != nil {
		t.Fatal(err)
	}
	f, err := up.File("mxc://hs/a")
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []int{0, 1, attachment.Piece, 2*attachment.Piece + 5} {
		for _, n := range []int{1, attachment.Piece, attachment.Piece + 1, 2 * attachment.Piece, 2*attachment.Piece + 2, len(all) - from} {
			body, rec := f.Clear(bytes.NewReader(sealed), int64(len(sealed))), httptest.NewRecorder()
			if _, err := body.Seek(int64(from), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			done, err := ahead{rec}.ReadFrom(io.LimitReader(body, int64(n)))
			if err != nil || done != int64(n) || !bytes.Equal(rec.Body.Bytes(), all[from:from+n]) {
				t.Errorf("%d bytes from %d on: %d, %v", n, from, done, err)
			}
			if rest, err := io.ReadAll(body); err != nil || !bytes.Equal(rest, all[from+n:]) {
				t.Errorf("after %d bytes from %d on: %d, %v", n, from, len(rest), err)
			}
		}
	}
	broken, rec := f.Clear(brokenAt{3*attachment.Piece + 5, bytes.NewReader(sealed)}, int64(len(sealed))), httptest.NewRecorder()
	done, err := ahead{rec}.ReadFrom(io.LimitReader(broken, int64(len(all))))
	if !errors.Is(err, errGone) || done != 3*attachment.Piece+5 || !bytes.Equal(rec.Body.Bytes(), all[:done]) {
		t.Errorf("broken: %d, %v", done, err)
	}
	gone := &leaving{httptest.NewRecorder(), 3}
	if done, err := (ahead{gone}).ReadFrom(io.LimitReader(f.Clear(bytes.NewReader(sealed), int64(len(sealed))), int64(len(all)))); !errors.Is(err, errGone) || done != 3*attachment.Piece {
		t.Errorf("a client that leaves: %d, %v", done, err)
	}
}

// brokenAt cannot be read beyond a place.
type brokenAt struct {
	end  int64
	from io.ReaderAt
}

func (b brokenAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) <= b.end {
		return b.from.ReadAt(p, off)
	}
	n, _ := b.from.ReadAt(p[:max(0, b.end-off)], off)
	return n, errGone
}
