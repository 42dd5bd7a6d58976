package qrcode

import (
	"errors"
	"fmt"
	"strings"

	"rsc.io/qr"
	"rsc.io/qr/coding"
)

// maxContent is the most bytes that a code of the largest version and the lowest correction
// has room for.
const maxContent = 2900

// ErrTooLong means that something does not fit into a code.
var ErrTooLong = errors.New("too long for a QR code")

// encode makes a code with one segment of bytes (ISO 18004, byte mode), whatever they are.
func encode(content []byte) (*qr.Code, error) {
	if len(content) == 0 || len(content) > maxContent {
		return nil, ErrTooLong
	}
	const level = coding.M
	text := coding.String(content)
	version := coding.Version(coding.MinVersion)
	for text.Bits(version) > version.DataBytes(level)*8 {
		if version++; version > coding.MaxVersion {
			return nil, ErrTooLong
		}
	}
	plan, err := coding.NewPlan(version, level, 0)
	if err != nil {
		return nil, fmt.Errorf("plan a QR code: %w", err)
	}
	code, err := plan.Encode(text)
	if err != nil {
		return nil, fmt.Errorf("make a QR code: %w", err)
	}
	return &qr.Code{Bitmap: code.Bitmap, Size: code.Size, Stride: code.Stride, Scale: 8}, nil
}

// PNG returns a code as a picture in PNG.
func PNG(content []byte) ([]byte, error) {
	code, err := encode(content)
	if err != nil {
		return nil, err
	}
	return code.PNG(), nil
}

// quiet is the width of the margin that the standard asks for.
const quiet = 4

// SVG returns a code as a picture in SVG, dark on light whatever is around it.
func SVG(content []byte) ([]byte, error) {
	code, err := encode(content)
	if err != nil {
		return nil, err
	}
	size := code.Size + 2*quiet
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges">`, size, size)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#fff"/><path fill="#000" d="`, size, size)
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&out, "M%d %dh%dv1h-%dz", from+quiet, y+quiet, x-from, x-from)
			}
		}
	}
	out.WriteString(`"/></svg>`)
	return []byte(out.String()), nil
}
