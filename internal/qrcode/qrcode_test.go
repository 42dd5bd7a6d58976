package qrcode_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	chacha "math/rand/v2"
	"testing"

	"e2ee-proxy/internal/qrcode"
)

// What is written is read again, whatever the bytes are, in PNG and in JPEG.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	random := make([]byte, 400)
	_, _ = rand.Read(random)
	for name, content := range map[string][]byte{
		"digits": []byte("0123456789"), "text": []byte("HELLO"), "zeros": make([]byte, 20), "bytes": random,
		"matrix": append([]byte("MATRIX\x02\x00\x00\x03txn"), random[:96]...),
	} {
		made, err := qrcode.PNG(content)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(made))
		if err != nil {
			t.Fatal(err)
		}
		var photo bytes.Buffer
		if err := jpeg.Encode(&photo, img, nil); err != nil {
			t.Fatal(err)
		}
		for kind, picture := range map[string][]byte{"png": made, "jpeg": photo.Bytes()} {
			if got, err := qrcode.Read(picture); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s in %s: %x, %v", name, kind, got, err)
			}
		}
		if drawn, err := qrcode.SVG(content); err != nil || !bytes.HasPrefix(drawn, []byte("<svg ")) || !bytes.HasSuffix(drawn, []byte("</svg>")) {
			t.Errorf("%s: %s, %v", name, drawn, err)
		}
	}
	for _, content := range [][]byte{nil, make([]byte, 3000)} {
		if _, err := qrcode.PNG(content); !errors.Is(err, qrcode.ErrTooLong) {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
}

// Codes as verifications have them, among them some in which the decoder takes something else for
// a corner.
func TestCodesOfVerifications(t *testing.T) {
	t.Parallel()
	for n := range 200 {
		keys := make([]byte, 64+10)
		_, _ = chacha.NewChaCha8([32]byte{byte(n)}).Read(keys) // it never fails
		content := append([]byte("MATRIX\x02\x00\x00\x20"), append([]byte("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), keys...)...)
		made, err := qrcode.PNG(content)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := qrcode.Read(made); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d: %x, %v", n, got, err)
		}
	}
}

// Pictures of a screen: a code among lines of text and a dark bar. In some of these codes a part of
// the bytes looks like a corner, so that they are found from one side of the picture only.
func TestCodesAmongOtherThings(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 72, 117, 379} {
		seed := [32]byte{byte(n), byte(n >> 8), 7}
		keys := make([]byte, 64+16)
		_, _ = chacha.NewChaCha8(seed).Read(keys) // it never fails
		content := append([]byte("MATRIX\x02\x00\x00\x20ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), keys...)
		made, err := qrcode.PNG(content)
		if err != nil {
			t.Fatal(err)
		}
		code, err := png.Decode(bytes.NewReader(made))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{code.Bounds().Dx() / 2, code.Bounds().Dx()} {
			screen := screenWith(code, size, n)
			var exact, photo bytes.Buffer
			if err := errors.Join(png.Encode(&exact, screen), jpeg.Encode(&photo, screen, nil)); err != nil {
				t.Fatal(err)
			}
			for kind, picture := range map[string][]byte{"png": exact.Bytes(), "jpeg": photo.Bytes()} {
				if got, err := qrcode.Read(picture); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d with %d pixels in %s: %x, %v", n, size, kind, got, err)
				}
			}
		}
	}
}

// screenWith makes a picture of a screen that shows a code with some pixels a side.
func screenWith(code image.Image, size int, seed uint64) image.Image {
	random := chacha.New(chacha.NewPCG(seed, 3))
	out := image.NewGray(image.Rect(0, 0, 900, 700))
	fill := func(box image.Rectangle, shade uint8) {
		draw.Draw(out, box, image.NewUniform(color.Gray{Y: shade}), image.Point{}, draw.Src)
	}
	fill(out.Rect, 235)
	fill(image.Rect(0, 640, 900, 700), 40)
	for line := range 14 {
		for x := 10 + random.IntN(60); x < 870; {
			width := 3 + random.IntN(9)
			fill(image.Rect(x, 10+12*line, x+width, 17+12*line), 60)
			x += width + 2 + random.IntN(5)
		}
	}
	at, all := image.Pt(250+random.IntN(40), 210+random.IntN(10)), code.Bounds().Dx()
	fill(image.Rect(-20, -20, size+20, size+20).Add(at), 255)
	for y := range size {
		for x := range size {
			out.Set(at.X+x, at.Y+y, code.At(x*all/size, y*all/size))
		}
	}
	return out
}

// What is no picture, too large to be looked at, or has no code in it.
func TestNothingToRead(t *testing.T) {
	t.Parallel()
	white := image.NewGray(image.Rect(0, 0, 200, 200))
	for i := range white.Pix {
		white.Pix[i] = 255
	}
	var blank, tall bytes.Buffer
	if err := png.Encode(&blank, white); err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(&tall, image.NewPaletted(image.Rect(0, 0, 2, 8_000_000), color.Palette{color.White})); err != nil {
		t.Fatal(err)
	}
	var photo bytes.Buffer
	if err := jpeg.Encode(&photo, white, nil); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		picture []byte
		want    error
	}{
		{"nothing", nil, qrcode.ErrNoPicture},
		{"text", []byte("no picture"), qrcode.ErrNoPicture},
		{"a cut picture", blank.Bytes()[:60], qrcode.ErrNoPicture},
		{"no code", blank.Bytes(), qrcode.ErrNoCode},
		{"too many pixels", tall.Bytes(), qrcode.ErrTooLarge},
		{"too many scans", bytes.Replace(photo.Bytes(), []byte("\xff\xda"), bytes.Repeat([]byte("\xff\xda"), 100), 1), qrcode.ErrTooLarge},
	} {
		if got, err := qrcode.Read(tc.picture); !errors.Is(err, tc.want) {
			t.Errorf("%s: %x, %v", tc.name, got, err)
		}
	}
}

// No picture ends the process or is read beyond its bounds.
func FuzzRead(f *testing.F) {
	made, err := qrcode.PNG([]byte("MATRIX\x02\x00"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(made)
	f.Add([]byte("\x89PNG\r\n\x1a\n"))
	f.Add([]byte("\xff\xd8\xff"))
	f.Fuzz(func(t *testing.T, picture []byte) {
		if got, err := qrcode.Read(picture); err == nil && len(got) == 0 {
			t.Error("a code without content")
		}
	})
}
