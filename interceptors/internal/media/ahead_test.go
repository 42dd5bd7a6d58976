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
