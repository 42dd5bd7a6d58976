package qrcode

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"testing"
)

// Attack: a picture is full of what looks like the corners of codes. A decoder compares all of
// them with each other, three at a time, which for a million pixels takes hours: whoever may
// upload a picture stops a core for good. The decoder is stopped at a number of corners, and
// a picture is no longer than what a phone takes, so that a column is not gone over for ever.
func TestAttackManyCorners(t *testing.T) {
	t.Parallel()
	const across, module = 24, 2 // 576 corners: enough to be far over the bound, and to end without it
	crowd := image.NewGray(image.Rect(0, 0, across*module*9, across*module*9))
	draw.Draw(crowd, crowd.Rect, image.White, image.Point{}, draw.Src)
	for x := range across {
		for y := range across {
			at := image.Pt((9*x+1)*module, (9*y+1)*module)
			for in, shade := range []color.Color{color.Black, color.White, color.Black} {
				box := image.Rect(in*module, in*module, (7-in)*module, (7-in)*module).Add(at)
				draw.Draw(crowd, box, image.NewUniform(shade), image.Point{}, draw.Src)
			}
		}
	}
	var seen candidates
	if content, err := read(encoded(t, crowd), &seen); !errors.Is(err, ErrNoCode) || seen != maxCandidates+1 {
		t.Errorf("%x, %v: %d corners were looked at, want the end at %d", content, err, seen, maxCandidates+1)
	}
	tall := image.NewPaletted(image.Rect(0, 0, 8, maxSide+1), color.Palette{color.White})
	if _, err := Read(encoded(t, tall)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a tall picture: %v", err)
	}
}

func encoded(t *testing.T, img image.Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
