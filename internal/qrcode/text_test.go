package qrcode

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"
)

// What a terminal shows is the code: a camera that looks at it reads the same bytes.
func TestText(t *testing.T) {
	t.Parallel()
	want := []byte("MATRIX\x02\x00\x00\x10!room and so on: some bytes \xff\x00 that are no text")
	text, err := Text(want)
	if err != nil {
		t.Fatal(err)
	}
	const scale = 8
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var rows [][]bool
	for _, line := range lines {
		line, ok := strings.CutPrefix(line, "\x1b[30;107m")
		line, end := strings.CutSuffix(line, "\x1b[0m")
		if !ok || !end {
			t.Fatalf("a line has the colours of the terminal: %q", line)
		}
		var upper, lower []bool
		for _, r := range line {
			upper, lower = append(upper, r == '█' || r == '▀'), append(lower, r == '█' || r == '▄')
		}
		if len(upper) > 80 {
			t.Errorf("a line has %d characters", len(upper))
		}
		rows = append(rows, upper, lower)
	}
	picture := image.NewGray(image.Rect(0, 0, len(rows[0])*scale, len(rows)*scale))
	for y := range picture.Rect.Dy() {
		for x := range picture.Rect.Dx() {
			if !rows[y/scale][x/scale] {
				picture.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	var file bytes.Buffer
	if err := png.Encode(&file, picture); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file.Bytes())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %q, error %v", got, err)
	}
}
