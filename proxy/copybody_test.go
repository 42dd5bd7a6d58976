package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// parted is a body that writes itself, and ends with an error.
type parted struct {
	parts [][]byte
	err   error
}

func (*parted) Close() error             { return nil }
func (*parted) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (p *parted) WriteTo(w io.Writer) (all int64, err error) {
	for _, part := range p.parts {
		n, err := w.Write(part)
		if all += int64(n); err != nil {
			return all, err
		}
	}
	return all, p.err
}

// taker notes how much it is given at once, and takes no more than it wants.
type taker struct {
	httptest.ResponseRecorder
	most, flushes, left int
}

var errGone = errors.New("gone")

func (c *taker) Write(p []byte) (int, error) {
	c.most = max(c.most, len(p))
	if c.left -= len(p); c.left < 0 {
		return 0, errGone
	}
	return c.ResponseRecorder.Write(p)
}

func (c *taker) Flush() { c.flushes++ }

// A body that writes itself goes out in pieces that a slow client can take in time, flushed as they come if
// its length is not known; who ended it is known.
func TestBodyThatWritesItself(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("a long part "), 20_000)
	for name, test := range map[string]struct {
		length int64
		left   int
		err    error
		want   error
		size   int
		flush  bool
	}{
		"of a known length":         {length: int64(len(long)) + 3, left: 1 << 20, size: len(long) + 3},
		"of an unknown one":         {length: -1, left: 1 << 20, size: len(long) + 3, flush: true},
		"that breaks off":           {length: -1, left: 1 << 20, err: io.ErrUnexpectedEOF, want: errBroken, size: len(long) + 3, flush: true},
		"to a client that is gone":  {length: -1, left: 100_000, want: errClientGone, size: 3 * copyBuffer, flush: true},
		"to one that is gone early": {length: 5, left: 0, want: errClientGone},
	} {
		c := &taker{ResponseRecorder: *httptest.NewRecorder(), left: test.left}
		err := (&Proxy{}).copyBody(c, &http.Response{ContentLength: test.length, Body: &parted{[][]byte{long, []byte("end")}, test.err}})
		if !errors.Is(err, test.want) || c.Body.Len() != test.size || c.most > copyBuffer || (c.flushes > 0) != test.flush {
			t.Errorf("%s: %v, %d bytes, %d at once, %d flushes", name, err, c.Body.Len(), c.most, c.flushes)
		}
		if errors.Is(err, errBroken) && errors.Is(err, errClientGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What writes itself in small parts, as a page of events does, is not sent one by one.
func TestSmallPartsGoTogether(t *testing.T) {
	t.Parallel()
	var parts [][]byte
	for range 1000 {
		parts = append(parts, []byte("a part of some fifty bytes, as between two events,"))
	}
	c := &taker{ResponseRecorder: *httptest.NewRecorder(), left: 1 << 20}
	err := (&Proxy{}).copyBody(c, &http.Response{ContentLength: -1, Body: &parted{parts, nil}})
	if err != nil || c.Body.String() != string(bytes.Join(parts, nil)) || c.flushes != 2 {
		t.Errorf("%v, %d bytes, %d flushes", err, c.Body.Len(), c.flushes)
	}
}
