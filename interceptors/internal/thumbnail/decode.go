package thumbnail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

// decode decodes a picture whose header was found good. A decoder that stumbles, whatever
// over, means a broken picture and nothing else.
func decode(ctx context.Context, r io.Reader, h header) (picture image.Image, err error) {
	g := &guard{ctx: ctx, r: r}
	defer func() {
		if recover() != nil {
			picture, err = nil, fmt.Errorf("%w: it cannot be decoded", ErrBroken)
		}
	}()
	switch h.format {
	case formatJPEG:
		g.scans = mostScans
		picture, err = jpeg.Decode(g)
	case formatPNG:
		picture, err = png.Decode(g)
	case formatGIF:
		picture, err = gif.Decode(g) // the first frame
	case formatWebP:
		picture, err = webp.Decode(g)
	default:
		return nil, ErrNotPicture
	}
	switch {
	case g.err != nil:
		return nil, g.err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	case picture == nil:
		return nil, ErrBroken
	}
	return picture, nil
}

// mostScans is how often a JPEG may go over its picture: each scan costs time for all of
// its pixels and may take a few bytes only. Encoders make a dozen.
const mostScans = 100

// guard is what a decoder reads from. It stops when nobody waits for the picture any more,
// and when a JPEG has too many scans.
type guard struct {
	ctx context.Context
	r   io.Reader
	// scans is how many there may still be; 0 does not count.
	scans int
	// half is whether the last byte may be the first one of a marker.
	half bool
	// err is what stopped it, other than the end.
	err error
}

func (g *guard) Read(p []byte) (int, error) {
	if g.err == nil {
		g.err = g.ctx.Err()
	}
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		g.err = fmt.Errorf("thumbnail: read the picture: %w", err)
		return n, g.err
	}
	if g.scans > 0 && n > 0 {
		// In what is coded 0xff is followed by other bytes, so that none is overlooked.
		starts := bytes.Count(p[:n], []byte{0xff, 0xda})
		if g.half && p[0] == 0xda {
			starts++
		}
		g.half = p[n-1] == 0xff
		if g.scans -= starts; g.scans <= 0 {
			g.err = fmt.Errorf("%w: a JPEG with too many scans", ErrTooLarge)
			return 0, g.err
		}
	}
	return n, err
}
