package qrcode_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"image"
	"image/color"
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
