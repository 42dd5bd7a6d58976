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
	return &files{tb: f.tb, url: front.URL, client: newEnd(f.tb), away: newAway(), token: f.token, zeros: f.zeros}
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

// fileTurns is how often each way of a file has its turn: see [BenchmarkFiles].
const fileTurns = 25

// BenchmarkFiles is files of 100 MB on their way through the proxy, from the first byte to the
// last; the client and the homeserver do as little as they can, on the same processors: see end. The
// reference is the cryptography of one such file with the standard library, on one processor. What
// a proxy can reach where the client and the homeserver have a part of the processors too is the
// other: the same bytes through an httputil.ReverseProxy, and that cryptography. They take turns,
// since a machine's speed changes; all turns are taken before the first of them is told.
func BenchmarkFiles(b *testing.B) {
	f := newFiles(b)
	f.keep = true
	f.upload(largeFile)
	f.keep = false
	past, kept := f.past(), f.name
	up, down := func(f *files) { f.upload(largeFile) }, func(f *files) { f.download(kept, largeFile) }
	ways := []struct {
		name string
		do   func()
		heap func(*files) // of what that is told too
		took meter
	}{
		{name: "reference=aes-sha", do: func() { cryptography(b) }},
		{name: "reference=passed-and-aes-sha/upload", do: func() { up(past); cryptography(b) }},
		{name: "reference=passed-and-aes-sha/download", do: func() { down(past); cryptography(b) }},
		{name: "upload", do: func() { up(f) }, heap: up},
		{name: "download", do: func() { down(f) }, heap: down},
	}
	for range fileTurns {
		for i := range ways {
			ways[i].took.measure(ways[i].do)
		}
	}
	for _, way := range ways {
		b.Run(way.name, func(b *testing.B) {
			for b.Loop() {
				way.do()
			}
			b.ReportMetric(largeFile/way.took.p50(), "MB/s")
			if way.heap != nil {
				b.ReportMetric(heapOf(way.heap, f), "heap-MB")
			}
			plain(b)
		})
	}
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
