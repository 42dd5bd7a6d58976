package qrcode

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // photographs
	_ "image/png"  // pictures of screens

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode/decoder"
	"github.com/makiuchi-d/gozxing/qrcode/detector"
)

// Bounds of a picture: what a phone takes. With the copies that reading needs it is about
// 100 MB for a moment.
const (
	maxPixels = 13_000_000
	// maxSide bounds what is done for each row of a tall picture, which goes over its columns.
	maxSide = 5000
	// maxCandidates is how many places may look like the corner of a code. All are compared
	// with each other, three at a time: a photograph has some dozens, a picture that is made
	// for it many thousands.
	maxCandidates = 300
	// maxScans bounds how often a JPEG goes over its picture: cameras and editors need a dozen. The
	// mark of one does not occur within another.
	maxScans   = 64
	scanBegins = "\xff\xda"
)

// candidates counts the places that look like the corner of a code.
type candidates int

// found ends the reading of a picture that has too many: nothing else ends a decoder, and
// [Read] recovers.
func (c *candidates) found(gozxing.ResultPoint) {
	*c++
	if *c > maxCandidates {
		panic("too many places look like the corner of a code")
	}
}

// Reasons why there is nothing to read.
var (
	ErrNoPicture = errors.New("this is no picture in PNG or JPEG")
	ErrTooLarge  = errors.New("the picture is too large")
	ErrNoCode    = errors.New("there is no QR code in the picture that can be read")
)

// Read returns the content of the code in a picture in PNG or JPEG. Errors: ErrNoPicture,
// ErrTooLarge, ErrNoCode.
func Read(picture []byte) ([]byte, error) { return read(picture, new(candidates)) }

func read(picture []byte, seen *candidates) (content []byte, err error) {
	// Whatever is wrong in a decoder of pictures or of codes, it is the sender's picture.
	defer func() {
		if p := recover(); p != nil {
			content, err = nil, fmt.Errorf("%w: a decoder failed", ErrNoCode)
		}
	}()
	shape, format, err := image.DecodeConfig(bytes.NewReader(picture))
	switch {
	case err != nil:
		return nil, ErrNoPicture
	case shape.Width <= 0 || shape.Height <= 0 || max(shape.Width, shape.Height) > maxSide || shape.Width > maxPixels/shape.Height:
		return nil, ErrTooLarge
	}
	if format == "jpeg" && bytes.Count(picture, []byte(scanBegins)) > maxScans {
		return nil, ErrTooLarge
	}
	img, _, err := image.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, ErrNoPicture
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		return nil, ErrNoCode
	}
	segments := decode(bitmap, seen)
	if len(segments) != 1 {
		return nil, ErrNoCode
	}
	// The text of the result was converted from some character set; these are the bytes.
	return segments[0], nil
}

// decode returns the segments of bytes of the code in a picture, nil when there is none. The
// library ends its search as soon as it believes that it has three corners, and the bytes of one
// code in sixty look like a corner themselves. From another side the true ones are seen first, so
// the picture is turned, a quarter at a time. It is changed by that.
func decode(bitmap *gozxing.BinaryBitmap, seen *candidates) [][]byte {
	picture, err := bitmap.GetBlackMatrix()
	if err != nil {
		return nil
	}
	hints := map[gozxing.DecodeHintType]any{
		gozxing.DecodeHintType_NEED_RESULT_POINT_CALLBACK: gozxing.ResultPointCallback(seen.found),
		gozxing.DecodeHintType_TRY_HARDER:                 true,
	}
	for range 4 {
		*seen = 0
		if at, err := detector.NewDetector(picture).Detect(hints); err == nil {
			if code, err := decoder.NewDecoder().Decode(at.GetBits(), hints); err == nil {
				return code.GetByteSegments()
			}
		}
		picture.Rotate90()
	}
	return nil
}
