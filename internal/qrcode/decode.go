package qrcode

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // photographs
	_ "image/png"  // pictures of screens

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// maxPixels bounds a picture: what a phone takes. With the copies that reading needs it is
// about 100 MB for a moment.
const maxPixels = 13_000_000

// Reasons why there is nothing to read.
var (
	ErrNoPicture = errors.New("this is no picture in PNG or JPEG")
	ErrTooLarge  = errors.New("the picture is too large")
	ErrNoCode    = errors.New("there is no QR code in the picture that can be read")
)

// Read returns the content of the code in a picture in PNG or JPEG. Errors: ErrNoPicture,
// ErrTooLarge, ErrNoCode.
func Read(picture []byte) (content []byte, err error) {
	// Whatever is wrong in a decoder of pictures or of codes, it is the sender's picture.
	defer func() {
		if p := recover(); p != nil {
			content, err = nil, fmt.Errorf("%w: a decoder failed", ErrNoCode)
		}
	}()
	shape, _, err := image.DecodeConfig(bytes.NewReader(picture))
	switch {
	case err != nil:
		return nil, ErrNoPicture
	case shape.Width <= 0 || shape.Height <= 0 || shape.Width > maxPixels/shape.Height:
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
	found, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		return nil, ErrNoCode
	}
	// The text of the result was converted from some character set; these are the bytes.
	segments, ok := found.GetResultMetadata()[gozxing.ResultMetadataType_BYTE_SEGMENTS].([][]byte)
	if !ok || len(segments) != 1 {
		return nil, ErrNoCode
	}
	return segments[0], nil
}
