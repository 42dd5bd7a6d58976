package thumbnail_test

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"testing"
	"time"

	"e2ee-proxy/interceptors/internal/thumbnail"
)

// patient are the limits for a machine on which a picture takes as long as it likes.
func patient() thumbnail.Limits {
	l := thumbnail.DefaultLimits()
	l.Time = time.Hour
	return l
}

// thumb returns what Make makes of some bytes, with the usual limits.
func thumb(t *testing.T, data []byte, want thumbnail.Want) (thumbnail.Picture, error) {
	t.Helper()
	return thumbnail.New(patient()).Make(t.Context(), bytes.NewReader(data), int64(len(data)), want)
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pixels decodes a thumbnail, and checks that it is what it says it is.
func pixels(t *testing.T, p thumbnail.Picture) image.Image {
	t.Helper()
	m, kind, err := image.Decode(bytes.NewReader(p.Data))
	if err != nil {
		t.Fatal(err)
	}
	if "image/"+kind != p.Type || m.Bounds() != image.Rect(0, 0, p.Width, p.Height) {
		t.Fatalf("a %s of %v calls itself %s of %d × %d", kind, m.Bounds(), p.Type, p.Width, p.Height)
	}
	return m
}

// near reports whether two colours look the same: JPEG and WebP lose a little.
func near(a, b color.Color) bool {
	const most = 0x1400
	r, g, bl, al := a.RGBA()
	r2, g2, bl2, al2 := b.RGBA()
	for _, d := range []int64{int64(r) - int64(r2), int64(g) - int64(g2), int64(bl) - int64(bl2), int64(al) - int64(al2)} {
		if d > most || d < -most {
			return false
		}
	}
	return true
}

func halves() (red, blue, none color.Color) {
	return color.RGBA{200, 30, 30, 255}, color.RGBA{30, 30, 200, 255}, color.RGBA{}
}

// Every format is read, and what is transparent stays so.
func TestFormats(t *testing.T) {
	t.Parallel()
	red, blue, none := halves()
	for name, right := range map[string]color.Color{
		"progressive.jpg": blue, "cmyk.jpg": blue,
		"palette.png": blue, "palette-alpha.png": none,
		"animated.gif": blue, "animated.webp": blue, "animated-alpha.webp": none,
		"lossy.webp": blue, "lossy-alpha.webp": none,
		"lossless.webp": blue, "lossless-alpha.webp": none,
	} {
		for _, method := range []thumbnail.Method{thumbnail.Scale, thumbnail.Crop} {
			p, err := thumb(t, fixture(t, name), thumbnail.Want{Width: 32, Height: 32, Method: method})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			height, kind := 21, "image/jpeg"
			if method == thumbnail.Crop {
				height = 32
			}
			if right == none {
				kind = "image/png"
			}
			if p.Width != 32 || p.Height != height || p.Type != kind {
				t.Errorf("%s: a %s of %d × %d", name, p.Type, p.Width, p.Height)
			}
			m := pixels(t, p)
			if at := m.At(4, 10); !near(at, red) {
				t.Errorf("%s: %v on the left", name, at)
			}
			if at := m.At(27, 10); !near(at, right) {
				t.Errorf("%s: %v on the right", name, at)
			}
		}
	}
}

// What is no picture is not taken for a broken one.
func TestWhatIsNoPicture(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"nothing": nil, "a byte": {0xff}, "text": []byte("this is what somebody wrote, and no picture"),
		"SVG":   []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="900" height="900"/>`),
		"a PDF": append([]byte("%PDF-1.7\n"), make([]byte, 100)...),
	} {
		if _, err := thumb(t, data, thumbnail.Want{Width: 32, Height: 32}); !errors.Is(err, thumbnail.ErrNotPicture) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// plain returns a picture of one colour.
func plain(t *testing.T, w, h int) []byte {
	t.Helper()
	m := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.RGBA{1, 2, 3, 255}})
	var out bytes.Buffer
	if err := png.Encode(&out, m); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// "Servers MUST NOT upscale thumbnails under any circumstance"; "scale" keeps the shape,
// "crop" takes the one that is asked for.
func TestSizes(t *testing.T) {
	t.Parallel()
	const scale, crop = thumbnail.Scale, thumbnail.Crop
	size := func(w, h int, m thumbnail.Method) thumbnail.Want {
		return thumbnail.Want{Width: w, Height: h, Method: m}
	}
	for _, row := range []struct {
		w, h   int
		want   thumbnail.Want
		gw, gh int // zero: it is small
	}{
		{1600, 1200, size(800, 600, scale), 800, 600},
		{1600, 1200, size(800, 600, crop), 800, 600},
		{1000, 500, size(320, 240, scale), 320, 160},
		{500, 1000, size(320, 240, scale), 120, 240},
		{1000, 500, size(96, 96, crop), 96, 96},
		{500, 1000, size(96, 96, crop), 96, 96},
		{100, 1000, size(200, 200, crop), 100, 100},
		{1000, 100, size(200, 50, crop), 200, 50},
		{1000, 1, size(32, 32, scale), 32, 1},
		{1, 1000, size(32, 32, crop), 1, 1},
		{33, 32, size(32, 32, scale), 32, 31},
		{32, 32, size(32, 32, scale), 0, 0},
		{32, 32, size(32, 32, crop), 0, 0},
		{10, 20, size(96, 96, crop), 0, 0},
		{10, 20, size(0, -7, scale), 1, 1},
		{3000, 10, size(1<<30, 1<<30, scale), thumbnail.MaxSide, 7},
	} {
		p, err := thumb(t, plain(t, row.w, row.h), row.want)
		if row.gw == 0 {
			if !errors.Is(err, thumbnail.ErrSmall) {
				t.Errorf("%d × %d for %v: %v", row.w, row.h, row.want, err)
			}
			continue
		}
		if err != nil || p.Width != row.gw || p.Height != row.gh {
			t.Errorf("%d × %d for %v: %d × %d, %v", row.w, row.h, row.want, p.Width, p.Height, err)
			continue
		}
		if at := pixels(t, p).At(0, 0); !near(at, color.RGBA{1, 2, 3, 255}) {
			t.Errorf("%d × %d for %v: %v", row.w, row.h, row.want, at)
		}
	}
}

// MSC4409: the thumbnail of a picture that is sent is of 800 × 600, and "for image media
// smaller than that no thumbnail should be provided".
func TestForSending(t *testing.T) {
	t.Parallel()
	m := thumbnail.New(patient())
	for _, row := range [][4]int{{1200, 1200, 600, 600}, {4000, 3000, 800, 600}, {801, 10, 800, 10}, {800, 600, 0, 0}, {20, 20, 0, 0}} {
		data := plain(t, row[0], row[1])
		p, err := m.ForSending(t.Context(), bytes.NewReader(data), int64(len(data)))
		if small := errors.Is(err, thumbnail.ErrSmall); small != (row[2] == 0) || (!small && err != nil) || p.Width != row[2] || p.Height != row[3] {
			t.Errorf("%v: %d × %d, %v", row, p.Width, p.Height, err)
		}
	}
}

// The mean of an area is exact, at its edges too.
func TestMean(t *testing.T) {
	t.Parallel()
	m := image.NewNRGBA(image.Rect(0, 0, 3, 3))
	for i := range 9 {
		m.SetNRGBA(i%3, i/3, color.NRGBA{uint8(20 * i), 0, 0, 255})
	}
	m.SetNRGBA(2, 2, color.NRGBA{0, 0, 0, 0}) // so that it comes back as PNG
	var in bytes.Buffer
	if err := png.Encode(&in, m); err != nil {
		t.Fatal(err)
	}
	p, err := thumb(t, in.Bytes(), thumbnail.Want{Width: 2, Height: 2})
	if err != nil {
		t.Fatal(err)
	}
	// Three columns in two: each has one and a half. 0, 20, 60, 80 with weights 4, 2, 2, 1.
	if r, _, _, _ := pixels(t, p).At(0, 0).RGBA(); r>>8 != (0*4+20*2+60*2+80+4)/9 {
		t.Errorf("the first pixel has %d", r>>8)
	}
	if _, _, _, a := pixels(t, p).At(1, 1).RGBA(); a>>8 != (5*255+4)/9 {
		t.Errorf("the last pixel has %d", a>>8)
	}
}

// A frame that is smaller than the screen stands at its place, also on more colours.
func TestFrameInsideAScreen(t *testing.T) {
	t.Parallel()
	frame := image.NewPaletted(image.Rect(60, 0, 100, 100), color.Palette{color.RGBA{0, 200, 0, 255}, color.RGBA{}})
	var in bytes.Buffer
	err := gif.EncodeAll(&in, &gif.GIF{
		Image: []*image.Paletted{frame}, Delay: []int{0},
		Config: image.Config{Width: 100, Height: 100, ColorModel: frame.Palette},
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := thumb(t, in.Bytes(), thumbnail.Want{Width: 10, Height: 10})
	if err != nil {
		t.Fatal(err)
	}
	m := pixels(t, p)
	if !near(m.At(2, 5), color.RGBA{}) || !near(m.At(8, 5), color.RGBA{0, 200, 0, 255}) {
		t.Errorf("%v, %v", m.At(2, 5), m.At(8, 5))
	}
}

// withEXIF puts a segment with an orientation and a place into a JPEG.
func withEXIF(jpg []byte, orientation byte, little bool) []byte {
	tiff := []byte("MM\x00\x2a\x00\x00\x00\x08\x00\x02\x01\x0f\x00\x02\x00\x00\x00\x04xyz\x00\x01\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00N 51.5")
	tiff[31] = orientation
	if little {
		tiff = []byte("II\x2a\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00N 51.5")
		tiff[18] = orientation
	}
	payload := append([]byte("Exif\x00\x00"), tiff...)
	segment := append([]byte{0xff, 0xe1, byte((len(payload) + 2) >> 8), byte(len(payload) + 2)}, payload...)
	return append(append(append([]byte{}, jpg[:2]...), segment...), jpg[2:]...)
}

// Telephones store every photograph lying and say how it is to be turned. What they say of
// the place does not come out.
func TestPhotographsStandUpright(t *testing.T) {
	t.Parallel()
	colours := []color.RGBA{{200, 0, 0, 255}, {0, 200, 0, 255}, {0, 0, 200, 255}, {200, 200, 0, 255}}
	m := image.NewRGBA(image.Rect(0, 0, 160, 80))
	for y := range 80 {
		for x := range 160 {
			m.SetRGBA(x, y, colours[y/40*2+x/80])
		}
	}
	var jpg bytes.Buffer
	if err := jpeg.Encode(&jpg, m, nil); err != nil {
		t.Fatal(err)
	}
	// The corners as they must be seen: top left, top right, bottom left, bottom right.
	for orientation, corners := range [][4]int{
		{0, 1, 2, 3}, {0, 1, 2, 3}, {1, 0, 3, 2}, {3, 2, 1, 0}, {2, 3, 0, 1},
		{0, 2, 1, 3}, {2, 0, 3, 1}, {3, 1, 2, 0}, {1, 3, 0, 2}, {0, 1, 2, 3},
	} {
		for _, little := range []bool{false, true} {
			for _, method := range []thumbnail.Method{thumbnail.Scale, thumbnail.Crop} {
				in := withEXIF(jpg.Bytes(), byte(orientation), little)
				p, err := thumb(t, in, thumbnail.Want{Width: 40, Height: 40, Method: method})
				if err != nil {
					t.Fatalf("%d: %v", orientation, err)
				}
				w, h := 40, 20
				if orientation >= 5 && orientation <= 8 {
					w, h = 20, 40
				}
				if method == thumbnail.Crop {
					w, h = 40, 40
				}
				if p.Width != w || p.Height != h {
					t.Errorf("%d: %d × %d", orientation, p.Width, p.Height)
				}
				small := pixels(t, p)
				for i, at := range []image.Point{{2, 2}, {w - 3, 2}, {2, h - 3}, {w - 3, h - 3}} {
					if c := small.At(at.X, at.Y); !near(c, colours[corners[i]]) {
						t.Errorf("orientation %d, little endian %t, method %d: corner %d is %v", orientation, little, method, i, c)
					}
				}
				if bytes.Contains(p.Data, []byte("51.5")) {
					t.Error("the place is in the thumbnail")
				}
			}
		}
	}
}

// A picture waits for its turn, and no longer than its client.
func TestPicturesWaitForEachOther(t *testing.T) {
	t.Parallel()
	m := thumbnail.New(thumbnail.Limits{Bytes: 1 << 20, Pixels: 1 << 20, Memory: 1 << 20, Time: time.Minute})
	data := plain(t, 900, 900)
	slow := &slowSource{Reader: bytes.NewReader(data), begun: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := m.Make(t.Context(), slow, int64(len(data)), thumbnail.Want{Width: 32, Height: 32})
		done <- err
	}()
	<-slow.begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Make(ctx, bytes.NewReader(data), int64(len(data)), thumbnail.Want{Width: 32, Height: 32}); !errors.Is(err, context.Canceled) {
		t.Errorf("the second: %v", err)
	}
	close(slow.goOn)
	if err := <-done; err != nil {
		t.Errorf("the first: %v", err)
	}
	if _, err := m.Make(t.Context(), bytes.NewReader(data), int64(len(data)), thumbnail.Want{Width: 32, Height: 32}); err != nil {
		t.Errorf("the third: %v", err)
	}
}

// slowSource stops behind the header until it may go on.
type slowSource struct {
	*bytes.Reader
	begun, goOn chan struct{}
	stopped     bool
}

func (s *slowSource) ReadAt(p []byte, at int64) (int, error) {
	if at > 28 && !s.stopped {
		s.stopped = true
		close(s.begun)
		<-s.goOn
	}
	return s.Reader.ReadAt(p, at)
}
