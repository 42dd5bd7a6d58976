package thumbnail_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/interceptors/internal/thumbnail"
)

// allocated returns what f allocates. Nothing else may run meanwhile.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func join(parts ...any) []byte {
	var out []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			out = append(out, p...)
		case []byte:
			out = append(out, p...)
		case uint16:
			out = binary.BigEndian.AppendUint16(out, p)
		case uint32:
			out = binary.BigEndian.AppendUint32(out, p)
		}
	}
	return out
}

func little(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// riff returns a WebP file with some chunks.
func riff(chunks ...[]byte) []byte {
	body := slices.Concat(chunks...)
	return join("RIFF", little(uint32(len(body)+4)), "WEBP", body)
}

func vp8x(width, height uint32) []byte {
	return join("VP8X", little(10), "\x10\x00\x00\x00", little(width - 1)[:3], little(height - 1)[:3])
}

func vp8l(width, height uint32) []byte {
	return join("VP8L", little(16), "\x2f", little((width-1)|(height-1)<<14), make([]byte, 11))
}

func vp8(width, height uint16, length uint32) []byte {
	return join("VP8 ", little(length), "\x10\x02\x00\x9d\x01\x2a", little(uint32(width)|uint32(height)<<16), make([]byte, 20))
}

// animated says that a WebP has frames.
func animated(width, height uint32) []byte {
	out := vp8x(width, height)
	out[8] |= 2
	return out
}

// anmf is a frame with a lossless picture that says that it is large.
func anmf(width, height, length uint32) []byte {
	return join("ANMF", little(length), make([]byte, 6), little(width - 1)[:3], little(height - 1)[:3], make([]byte, 4), vp8l(16384, 16384), make([]byte, 20))
}

func pngHeader(width, height uint32, depth, colour, interlaced string) []byte {
	return join("\x89PNG\r\n\x1a\n", uint32(13), "IHDR", width, height, depth, colour, "\x00\x00", interlaced, uint32(0), make([]byte, 50))
}

func sof(marker string, width, height uint16, sampling string) []byte {
	return join("\xff"+marker, uint16(17), "\x08", height, width, "\x03\x01"+sampling+"\x00\x02\x11\x00\x03\x11\x00")
}

// Attack vector: a file of a hundred bytes says that it is a picture of four thousand
// million pixels, or that one of its parts is 2 GB long, so that whoever decodes it
// allocates what is not there. Its header is judged before anything is allocated.
func TestHostileHeadersAllocateNothing(t *testing.T) { //nolint:paralleltest // it measures what is allocated
	m := thumbnail.New(patient())
	many := bytes.Repeat([]byte("\xff\xe5\x00\x02"), 1<<18)
	for name, row := range map[string]struct {
		data []byte
		want error
	}{
		"JPEG, pixels":             {join("\xff\xd8", sof("\xc0", 65535, 65535, "\x11")), thumbnail.ErrTooLarge},
		"JPEG, memory":             {join("\xff\xd8", sof("\xc2", 8000, 8000, "\x11")), thumbnail.ErrTooLarge},
		"JPEG, a line":             {join("\xff\xd8", sof("\xc2", 1, 65535, "\x44")), thumbnail.ErrBroken},
		"JPEG, no pixels":          {join("\xff\xd8", sof("\xc0", 0, 10, "\x11")), thumbnail.ErrBroken},
		"JPEG, sampling":           {join("\xff\xd8", sof("\xc0", 10, 10, "\x00")), thumbnail.ErrBroken},
		"JPEG, components":         {join("\xff\xd8\xff\xc0", uint16(17), "\x08\x00\x0a\x00\x0a\xff", make([]byte, 30)), thumbnail.ErrBroken},
		"JPEG, segments":           {join("\xff\xd8", many, sof("\xc0", 10, 10, "\x11")), thumbnail.ErrTooLarge},
		"JPEG, a segment of 1":     {join("\xff\xd8\xff\xe0\x00\x01", make([]byte, 20)), thumbnail.ErrBroken},
		"JPEG, bytes between":      {join("\xff\xd8\xff\xe0\x00\x02", "xx", sof("\xc0", 10, 10, "\x11")), thumbnail.ErrBroken},
		"JPEG, a scan first":       {join("\xff\xd8\xff\xda\x00\x02", sof("\xc0", 10, 10, "\x11")), thumbnail.ErrBroken},
		"JPEG, a segment too long": {join("\xff\xd8\xff\xe0\xff\xff", make([]byte, 20)), thumbnail.ErrBroken},
		"PNG, pixels":              {pngHeader(65535, 65535, "\x08", "\x06", "\x00"), thumbnail.ErrTooLarge},
		"PNG, a long line":         {pngHeader(math.MaxInt32, 1, "\x08", "\x06", "\x00"), thumbnail.ErrTooLarge},
		"PNG, more than exist":     {pngHeader(math.MaxUint32, math.MaxUint32, "\x10", "\x06", "\x01"), thumbnail.ErrTooLarge},
		"PNG, deep":                {pngHeader(6000, 6000, "\x10", "\x02", "\x00"), thumbnail.ErrTooLarge},
		"PNG, interlaced":          {pngHeader(6000, 6000, "\x08", "\x06", "\x01"), thumbnail.ErrTooLarge},
		"PNG, no pixels":           {pngHeader(0, 10, "\x08", "\x06", "\x00"), thumbnail.ErrBroken},
		"PNG, no header":           {join("\x89PNG\r\n\x1a\n", uint32(13), "IDAT", make([]byte, 30)), thumbnail.ErrBroken},
		"GIF, screen":              {join("GIF89a\xff\xff\xff\xff\x80\x00\x00", make([]byte, 20)), thumbnail.ErrTooLarge},
		"GIF, no pixels":           {join("GIF89a\x00\x00\xff\xff\x80\x00\x00", make([]byte, 20)), thumbnail.ErrBroken},
		"WebP, canvas":             {riff(vp8x(1<<24, 1<<24)), thumbnail.ErrTooLarge},
		"WebP, lossless":           {riff(vp8l(16384, 16384)), thumbnail.ErrTooLarge},
		"WebP, memory":             {riff(vp8l(8000, 8000)), thumbnail.ErrTooLarge},
		"WebP, lossy":              {riff(vp8(16383, 16383, 30)), thumbnail.ErrTooLarge},
		"WebP, file of 4 GB":       {join("RIFF\xff\xff\xff\xffWEBP", vp8(100, 100, math.MaxInt32-1)), thumbnail.ErrBroken},
		"WebP, chunk of 2 GB":      {riff(vp8(100, 100, math.MaxInt32-1)), thumbnail.ErrBroken},
		"WebP, a frame of 2 GB":    {riff(animated(64, 64), anmf(64, 64, math.MaxInt32-1)), thumbnail.ErrBroken},
		"WebP, a large frame":      {riff(animated(64, 64), anmf(1<<24, 1<<24, 60)), thumbnail.ErrBroken},
		"WebP, an empty frame":     {riff(animated(64, 64), anmf(64, 64, 16)), thumbnail.ErrBroken},
		"WebP, a large animation":  {riff(animated(1<<24, 1<<24), anmf(64, 64, 60)), thumbnail.ErrTooLarge},
		"WebP, a frame alone":      {riff(anmf(64, 64, 60)), thumbnail.ErrBroken},
		"WebP, no frame":           {riff(animated(64, 64)), thumbnail.ErrBroken},
		"WebP, chunks":             {riff(bytes.Repeat(join("ICCP", little(0)), 1000), vp8l(100, 100)), thumbnail.ErrBroken},
		"WebP, no picture":         {riff(join("ICCP", little(4), "abcd")), thumbnail.ErrBroken},
	} {
		var err error
		got := allocated(func() {
			_, err = m.Make(t.Context(), bytes.NewReader(row.data), int64(len(row.data)), thumbnail.Want{Width: 32, Height: 32})
		})
		if !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
		}
		// "A line" and "chunk of 2 GB" are refused by the decoder, which has its own buffers.
		if limit := uint64(64 << 10); got > limit && name != "JPEG, a line" && name != "WebP, chunk of 2 GB" {
			t.Errorf("%s: %d bytes were allocated", name, got)
		} else if got > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

// Attack vector: the header says one thing, what follows another, so that the limits are
// applied to a picture that is not the one that is decoded.
func TestPicturesThatLieAboutThemselves(t *testing.T) { //nolint:paralleltest // it measures what is allocated
	m := thumbnail.New(patient())
	frame := join("\x2c\x00\x00\x00\x00\xff\xff\xff\xff\x80\x00\x00\x00\xff\xff\xff\x08\x02\x4c\x01\x00\x3b")
	for name, data := range map[string][]byte{
		"a frame larger than the screen":   join("GIF89a\x40\x00\x40\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff", frame),
		"a picture larger than the canvas": riff(vp8x(64, 64), vp8l(16384, 16384)),
		"a frame larger than the canvas":   riff(vp8x(64, 64), vp8(16383, 16383, 30)),
		"a picture larger than its frame":  riff(animated(64, 64), anmf(64, 64, 60), vp8l(16384, 16384)),
		"two canvases":                     riff(vp8x(64, 64), vp8x(1<<24, 1<<24)),
		"two frames":                       join("\xff\xd8", sof("\xc0", 64, 64, "\x11"), sof("\xc0", 65535, 65535, "\x11"), "\xff\xd9"),
		"two headers":                      join(pngHeader(64, 64, "\x08", "\x06", "\x00")[:33], pngHeader(65535, 65535, "\x08", "\x06", "\x00")[8:]),
		"nothing behind the header":        join("GIF89a\x40\x00\x40\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff\x3b"),
	} {
		var err error
		got := allocated(func() {
			_, err = m.Make(t.Context(), bytes.NewReader(data), int64(len(data)), thumbnail.Want{Width: 32, Height: 32})
		})
		if !errors.Is(err, thumbnail.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
		if got > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

// Attack vector: a progressive JPEG goes over its pixels a hundred thousand times, each time
// with a few bytes, and keeps a processor busy for hours.
func TestJPEGWithManyScans(t *testing.T) {
	t.Parallel()
	data := fixture(t, "progressive.jpg")
	last := bytes.LastIndex(data, []byte("\xff\xda"))
	scan := data[last : len(data)-2]
	for n, want := range map[int]error{1: nil, 50: nil, 200: thumbnail.ErrTooLarge, 50_000: thumbnail.ErrTooLarge} {
		in := join(data[:last], bytes.Repeat(scan, n), "\xff\xd9")
		if _, err := thumb(t, in, thumbnail.Want{Width: 32, Height: 32}); !errors.Is(err, want) {
			t.Errorf("%d scans: %v, want %v", n, err, want)
		}
	}
	// Film and sound behind a photograph are not its scans.
	in := join(data, bytes.Repeat([]byte("\xff\xda"), 50_000))
	if _, err := thumb(t, in, thumbnail.Want{Width: 32, Height: 32}); err != nil && !errors.Is(err, thumbnail.ErrTooLarge) {
		t.Error(err)
	}
	in = join(data, make([]byte, 8<<10), bytes.Repeat([]byte("\xff\xda"), 50_000))
	if _, err := thumb(t, in, thumbnail.Want{Width: 32, Height: 32}); err != nil {
		t.Error("with a film behind it:", err)
	}
}

// slow is a picture of which each part takes a second.
type slow struct{ io.ReaderAt }

func (s slow) ReadAt(p []byte, off int64) (int, error) {
	<-time.After(time.Second) // of the test's own clock
	return s.ReaderAt.ReadAt(p, off)
}

// Attack vector: a progressive JPEG with as many scans as are allowed takes minutes, and its client
// waits for as long as it takes. It holds the memory for thumbnails meanwhile.
//
// Expected: it is given up after its time, and others have their turn; a client that leaves is
// not told that its picture is too large.
func TestPictureThatTakesTooLong(t *testing.T) {
	t.Parallel()
	data := fixture(t, "progressive.jpg")
	last := bytes.LastIndex(data, []byte("\xff\xda"))
	in := join(data[:last], bytes.Repeat(data[last:len(data)-2], 50), make([]byte, 1<<20))
	synctest.Test(t, func(t *testing.T) {
		limits := thumbnail.DefaultLimits()
		m, want := thumbnail.New(limits), thumbnail.Want{Width: 32, Height: 32}
		began, others := time.Now(), make(chan error, 1)
		for range 8 { // they have all of the memory, and more wait
			go func() {
				_, err := m.Make(t.Context(), slow{bytes.NewReader(in)}, int64(len(in)), want)
				others <- err
			}()
		}
		for range 8 {
			if err := <-others; !errors.Is(err, thumbnail.ErrTooLarge) {
				t.Errorf("%v", err)
			}
		}
		if _, err := m.Make(t.Context(), bytes.NewReader(data), int64(len(data)), want); err != nil {
			t.Errorf("after them: %v", err)
		}
		if took := time.Since(began); took > 20*limits.Time {
			t.Errorf("it took %v", took)
		}
		leaving, leave := context.WithTimeout(t.Context(), limits.Time/2)
		defer leave()
		if _, err := m.Make(leaving, slow{bytes.NewReader(in)}, int64(len(in)), want); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, thumbnail.ErrTooLarge) {
			t.Errorf("a client that leaves: %v", err)
		}
	})
}

// What is too large in bytes is not read at all, and one that needs more memory than there
// is does not wait for it.
func TestLimits(t *testing.T) {
	t.Parallel()
	data := plain(t, 1000, 1000)
	size := int64(len(data))
	for name, limits := range map[string]thumbnail.Limits{
		"bytes":  {Bytes: size - 1, Pixels: 1_000_000, Memory: 1 << 30, Time: time.Minute},
		"pixels": {Bytes: size, Pixels: 999_999, Memory: 1 << 30, Time: time.Minute},
		"memory": {Bytes: size, Pixels: 1_000_000, Memory: 1_000_000, Time: time.Minute},
		"none":   {},
	} {
		_, err := thumbnail.New(limits).Make(t.Context(), bytes.NewReader(data), size, thumbnail.Want{Width: 32, Height: 32})
		if !errors.Is(err, thumbnail.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	limits := thumbnail.Limits{Bytes: size, Pixels: 1_000_000, Memory: 1_200_000, Time: time.Minute}
	if _, err := thumbnail.New(limits).Make(t.Context(), bytes.NewReader(data), size, thumbnail.Want{Width: 32, Height: 32}); err != nil {
		t.Errorf("what is just allowed: %v", err)
	}
}

// A file that ends anywhere is a broken picture: nothing is made of a part of it.
func TestPicturesThatAreCutOff(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"progressive.jpg", "cmyk.jpg", "palette.png", "lossy.webp", "lossy-alpha.webp", "lossless.webp"} {
		data := fixture(t, name)
		for n := range len(data) - 1 {
			_, err := thumb(t, data[:n], thumbnail.Want{Width: 32, Height: 32})
			if !errors.Is(err, thumbnail.ErrBroken) && (n >= 12 || !errors.Is(err, thumbnail.ErrNotPicture)) {
				t.Errorf("%s, %d of %d bytes: %v", name, n, len(data), err)
			}
		}
	}
}

// failingSource ends with an error of its own behind the header.
type failingSource struct {
	*bytes.Reader
	err error
}

func (s failingSource) ReadAt(p []byte, at int64) (int, error) {
	if at > 28 || at == 0 && len(p) > 28 {
		return 0, s.err
	}
	return s.Reader.ReadAt(p, at)
}

// That a file cannot be read says nothing of the picture, nor does a client that went.
func TestErrorsOfOthersAreNotThePictures(t *testing.T) {
	t.Parallel()
	m := thumbnail.New(patient())
	data := plain(t, 500, 500)
	_, err := m.Make(t.Context(), failingSource{bytes.NewReader(data), io.ErrClosedPipe}, int64(len(data)), thumbnail.Want{Width: 32, Height: 32})
	if !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, thumbnail.ErrBroken) {
		t.Errorf("a source that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	slow := &slowSource{Reader: bytes.NewReader(data), begun: make(chan struct{}), goOn: make(chan struct{})}
	go func() {
		<-slow.begun
		cancel()
		close(slow.goOn)
	}()
	_, err = m.Make(ctx, slow, int64(len(data)), thumbnail.Want{Width: 32, Height: 32})
	if !errors.Is(err, context.Canceled) || errors.Is(err, thumbnail.ErrBroken) {
		t.Errorf("a client that went: %v", err)
	}
}

// Whatever comes, it is a small picture or an error that is known.
func FuzzMake(f *testing.F) {
	for _, name := range []string{
		"progressive.jpg", "cmyk.jpg", "palette.png", "palette-alpha.png", "animated.gif",
		"lossy.webp", "lossy-alpha.webp", "lossless.webp", "lossless-alpha.webp", "animated.webp",
	} {
		f.Add(fixture(f, name), 32, 32, true)
	}
	f.Add(withEXIF(fixture(f, "progressive.jpg"), 6, true), 20, 50, false)
	f.Add(riff(vp8x(64, 64), vp8l(64, 64)), 1, 1, false)
	f.Add(fixture(f, "animated-alpha.webp"), 30, 30, false)
	f.Add(join("\xff\xd8", sof("\xc2", 64, 64, "\x42"), "\xff\xd9"), 10, 10, true)
	m := thumbnail.New(thumbnail.Limits{Bytes: 1 << 16, Pixels: 1 << 16, Memory: 4 << 20, Time: time.Minute})
	f.Fuzz(func(t *testing.T, data []byte, width, height int, crop bool) {
		want := thumbnail.Want{Width: width, Height: height}
		if crop {
			want.Method = thumbnail.Crop
		}
		p, err := m.Make(t.Context(), bytes.NewReader(data), int64(len(data)), want)
		switch {
		case err == nil:
			if b := pixels(t, p).Bounds(); b.Dx() > min(max(width, 1), thumbnail.MaxSide) || b.Dy() > min(max(height, 1), thumbnail.MaxSide) {
				t.Errorf("%v for %d × %d", b, width, height)
			}
		case errors.Is(err, thumbnail.ErrBroken), errors.Is(err, thumbnail.ErrTooLarge), errors.Is(err, thumbnail.ErrNotPicture), errors.Is(err, thumbnail.ErrSmall):
		default:
			t.Errorf("an error of another kind: %v", err)
		}
	})
}
