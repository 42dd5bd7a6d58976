package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

const (
	largeFile = 100 << 20
	smallFile = 1 << 20
)

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// files is a client behind the proxy, and a homeserver that keeps what it uploads.
type files struct {
	tb     testing.TB
	url    string
	token  string
	stored atomic.Pointer[[]byte] // the last upload, if it is wanted
	keep   bool
}

func newFiles(b *testing.B) *files {
	r, up := newReaders(b, 1, nil)
	_, who := r.next()
	f := &files{tb: b, url: r.url, token: who.Token}
	up.on(http.MethodPost, "/_matrix/media/v3/upload", func(w http.ResponseWriter, req *http.Request) {
		to := io.Discard
		var kept *bytes.Buffer
		if f.keep {
			kept = bytes.NewBuffer(make([]byte, 0, req.ContentLength))
			to = kept
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{to}, req.Body, make([]byte, 256<<10)); err != nil {
			return
		}
		if kept != nil {
			all := kept.Bytes()
			f.stored.Store(&all)
		}
		text([]byte(`{"content_uri":"mxc://hs/file"}`))(w, req)
	})
	give := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, bytes.NewReader(*f.stored.Load()))
	}
	up.on(http.MethodGet, "/_matrix/client/v1/media/download/hs/file", give)
	up.on(http.MethodGet, "/_matrix/client/v1/media/download/hs/plain", give)
	return f
}

func (f *files) ask(method, path string, body io.Reader, size int64) *http.Response {
	req, err := http.NewRequest(method, f.url+path, body)
	if err != nil {
		f.tb.Fatal(err)
	}
	req.ContentLength = size
	req.Header.Set("Authorization", "Bearer "+f.token)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		f.tb.Fatal(err)
	}
	return resp
}

func (f *files) upload(size int64) {
	resp := f.ask(http.MethodPost, "/_matrix/media/v3/upload", io.LimitReader(zeros{}, size), size)
	defer resp.Body.Close()
	var answer struct {
		URI string `json:"content_uri"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.URI == "" {
		f.tb.Fatalf("upload: %d, %v", resp.StatusCode, err)
	}
}

// download reads a file and returns when its first byte came.
func (f *files) download(name string, size int64) time.Duration {
	began := time.Now()
	resp := f.ask(http.MethodGet, "/_matrix/client/v1/media/download/hs/"+name, nil, 0)
	defer resp.Body.Close()
	var one [1]byte
	if _, err := io.ReadFull(resp.Body, one[:]); err != nil {
		f.tb.Fatal(err)
	}
	first := time.Since(began)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
	if err != nil || n+1 != size || resp.StatusCode != http.StatusOK {
		f.tb.Fatalf("%d: %d bytes, %v", resp.StatusCode, n+1, err)
	}
	return first
}

// BenchmarkFiles is files of 100 MB on their way through the proxy, from the first byte to the
// last; the client and the homeserver do as little as they can, on the same processors. The
// reference is the cryptography of one such file with the standard library, on one processor.
func BenchmarkFiles(b *testing.B) {
	b.Run("reference=aes-sha", func(b *testing.B) {
		block, err := aes.NewCipher(make([]byte, 32))
		if err != nil {
			b.Fatal(err)
		}
		var m meter
		buf := make([]byte, 32<<10)
		for b.Loop() {
			m.measure(func() {
				stream, sum := cipher.NewCTR(block, make([]byte, 16)), sha256.New()
				for range largeFile / len(buf) {
					stream.XORKeyStream(buf, buf)
					sum.Write(buf)
				}
			})
		}
		b.ReportMetric(largeFile/m.p50(), "MB/s")
		plain(b)
	})
	measure := func(b *testing.B, do func(f *files)) {
		f := newFiles(b)
		f.keep = true
		f.upload(largeFile)
		f.keep = false
		var m meter
		heap := heapOf(do, f)
		for b.Loop() {
			m.measure(func() { do(f) })
		}
		b.ReportMetric(largeFile/m.p50(), "MB/s")
		b.ReportMetric(heap, "heap-MB")
		plain(b)
	}
	b.Run("upload", func(b *testing.B) { measure(b, func(f *files) { f.upload(largeFile) }) })
	b.Run("download", func(b *testing.B) { measure(b, func(f *files) { f.download("file", largeFile) }) })
}

// heapOf returns by how much the heap grows at most while something is done, in MB.
func heapOf(do func(*files), f *files) float64 {
	do(f) // what is kept for later is there
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	done, most := make(chan struct{}), make(chan uint64)
	go func() {
		var peak uint64
		for {
			select {
			case <-done:
				most <- peak
				return
			case <-time.After(2 * time.Millisecond):
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
		}
	}()
	do(f)
	close(done)
	return max(0, float64(<-most)-float64(before.HeapAlloc)) / 1e6
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkFirstByte is when the first byte of a file of 1 MB comes. The reference is the same
// file where it needs not be decrypted.
func BenchmarkFirstByte(b *testing.B) {
	f := newFiles(b)
	f.keep = true
	f.upload(smallFile)
	for name, file := range map[string]string{"reference=plain": "plain", "e2ee-proxy": "file"} {
		b.Run(name, func(b *testing.B) {
			var all []time.Duration
			for b.Loop() {
				all = append(all, f.download(file, smallFile))
			}
			b.ReportMetric(float64(median(all).Microseconds())/1e3, "p50-ms")
			plain(b)
		})
	}
}
