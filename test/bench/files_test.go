package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

const (
	largeFile = 100 << 20
	smallFile = 1 << 20
)

// files is a client behind the proxy, and a homeserver that keeps what it uploads.
type files struct {
	tb     testing.TB
	url    string
	client *http.Transport
	away   away
	// homeserver is where the homeserver itself answers.
	homeserver string
	token      string
	made       atomic.Int64
	zeros      string // the name of what is uploaded
	stored     string // and of the last upload, if it is wanted
	name       string // its media ID
	keep       bool
}

func newFiles(b *testing.B) *files {
	r, up := newReaders(b, 1, nil)
	up.discards.Store(true)
	_, who := r.next()
	f := &files{tb: b, url: r.url, client: newEnd(b), away: newAway(), homeserver: up.url.String(), token: who.Token}
	f.zeros = newFile(b, func(file *os.File) error { return file.Truncate(largeFile) })
	taken := newAway()
	up.on(http.MethodPost, "/_matrix/media/v3/upload", func(w http.ResponseWriter, req *http.Request) {
		if f.keep {
			f.stored = newFile(b, func(file *os.File) error {
				_, err := io.Copy(struct{ io.Writer }{file}, req.Body)
				return err
			})
		} else if _, err := taken.count(req.Body); err != nil {
			return
		}
		// Each has a place of its own: one that is given twice is refused.
		f.name = fmt.Sprintf("file%d", f.made.Add(1))
		text([]byte(`{"content_uri":"mxc://hs/`+f.name+`"}`))(w, req)
	})
	up.below(http.MethodGet, "/_matrix/client/v1/media/download/hs/", func(w http.ResponseWriter, _ *http.Request) {
		file, err := os.Open(f.stored)
		if err != nil {
			b.Error(err)
			return
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			b.Error(err)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
		_, _ = io.Copy(w, file)
	})
	return f
}

// past returns the same client and homeserver with nothing between them but what passes every
// byte on: an httputil.ReverseProxy.
func (f *files) past() *files {
	base, err := url.Parse(f.homeserver)
	if err != nil {
		f.tb.Fatal(err)
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(base) }})
	f.tb.Cleanup(front.Close)
	return &files{tb: f.tb, url: front.URL, client: newEnd(f.tb), away: newAway(), token: f.token, zeros: f.zeros, name: f.name}
}

func (f *files) ask(method, path string, body io.Reader, size int64) *http.Response {
	req, err := http.NewRequest(method, f.url+path, body)
	if err != nil {
		f.tb.Fatal(err)
	}
	req.ContentLength = size
	req.Header.Set("Authorization", "Bearer "+f.token)
	resp, err := f.client.RoundTrip(req)
	if err != nil {
		f.tb.Fatal(err)
	}
	return resp
}

func (f *files) upload(size int64) {
	body, err := os.Open(f.zeros)
	if err != nil {
		f.tb.Fatal(err)
	}
	resp := f.ask(http.MethodPost, "/_matrix/media/v3/upload", body, size) // which closes it
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
	n, err := f.away.count(resp.Body)
	if err != nil || n+1 != size || resp.StatusCode != http.StatusOK {
		f.tb.Fatalf("%d: %d bytes, %v", resp.StatusCode, n+1, err)
	}
	return first
}

// BenchmarkFiles is files of 100 MB on their way through the proxy, from the first byte to the
// last; the client and the homeserver do as little as they can, on the same processors: see end. The
// reference is the cryptography of one such file with the standard library, on one processor. What
// a proxy can reach where the client and the homeserver have a part of the processors too is the
// other: the same bytes through an httputil.ReverseProxy, and that cryptography.
func BenchmarkFiles(b *testing.B) {
	b.Run("reference=aes-sha", func(b *testing.B) {
		var m meter
		for b.Loop() {
			m.measure(func() { cryptography(b) })
		}
		b.ReportMetric(largeFile/m.p50(), "MB/s")
		plain(b)
	})
	floor := func(b *testing.B, do func(f *files)) {
		f := newFiles(b)
		f.keep = true
		f.upload(largeFile)
		f.keep = false
		between := f.past()
		var m meter
		for b.Loop() {
			m.measure(func() {
				do(between)
				cryptography(b)
			})
		}
		b.ReportMetric(largeFile/m.p50(), "MB/s")
		plain(b)
	}
	up, down := func(f *files) { f.upload(largeFile) }, func(f *files) { f.download(f.name, largeFile) }
	b.Run("reference=passed-and-aes-sha/upload", func(b *testing.B) { floor(b, up) })
	b.Run("reference=passed-and-aes-sha/download", func(b *testing.B) { floor(b, down) })
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
	b.Run("upload", func(b *testing.B) { measure(b, up) })
	b.Run("download", func(b *testing.B) { measure(b, down) })
}

// cryptography is that of one file, with the standard library, on one processor.
func cryptography(tb testing.TB) {
	tb.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		tb.Fatal(err)
	}
	buf := make([]byte, 32<<10)
	stream, sum := cipher.NewCTR(block, make([]byte, 16)), sha256.New()
	for range largeFile / len(buf) {
		stream.XORKeyStream(buf, buf)
		sum.Write(buf)
	}
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
	for name, file := range map[string]string{"reference=plain": "plain", "e2ee-proxy": f.name} {
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
