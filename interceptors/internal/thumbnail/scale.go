package thumbnail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/jpeg"
	"image/png"
)

// plan is what becomes of a picture, as its pixels are stored, not yet turned upright.
type plan struct {
	from          image.Rectangle
	width, height int
}

// cost is the memory that shrinking takes, and turning and encoding what comes out.
func (p plan) cost() int64 {
	return 16*int64(p.width)*int64(p.height) + 16*int64(p.from.Dx())
}

// planFor returns how a picture is brought to a size; false if it is no larger than that.
func planFor(h header, want Want) (plan, bool) {
	w, ht := int64(h.width), int64(h.height)
	maxW, maxH := int64(min(max(want.Width, 1), MaxSide)), int64(min(max(want.Height, 1), MaxSide))
	if h.orientation >= 5 { // lies on its side
		maxW, maxH = maxH, maxW
	}
	if w <= maxW && ht <= maxH {
		return plan{}, false
	}
	cutW, cutH := w, ht
	outW, outH := maxW, maxH
	wider := w*maxH > ht*maxW
	switch {
	case want.Method == Crop && wider:
		cutW = max(1, ht*maxW/maxH)
	case want.Method == Crop:
		cutH = max(1, w*maxH/maxW)
	case wider:
		outH = max(1, (ht*maxW+w/2)/w)
	default:
		outW = max(1, (w*maxH+ht/2)/ht)
	}
	left, top := int((w-cutW)/2), int((ht-cutH)/2)
	return plan{
		from:   image.Rect(left, top, left+int(cutW), top+int(cutH)),
		width:  int(min(outW, cutW)),
		height: int(min(outH, cutH)),
	}, true
}

// shrink makes every pixel the mean of the area that it stands for, exactly: a pixel's
// share of an area is counted in units of which a pixel of the original has as many as the
// result has columns, or rows. Only one row of the original is taken up at a time. place is
// where the original stands on its canvas.
func shrink(ctx context.Context, src image.Image, place image.Point, p plan) (*image.RGBA, error) {
	fromW, fromH := p.from.Dx(), p.from.Dy()
	row := image.NewRGBA(image.Rect(0, 0, fromW, 1))
	sums := make([]uint32, 4*p.width)  // of one row of the original
	total := make([]uint64, 4*p.width) // of the rows that a row of the result stands for
	out := image.NewRGBA(image.Rect(0, 0, p.width, p.height))
	area := uint64(fromW) * uint64(fromH)
	y, left := 0, fromH // the row that is filled, and the units that it still lacks
	for from := range fromH {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("thumbnail: shrink: %w", err)
		}
		clear(row.Pix) // a frame may be smaller than the screen
		draw.Draw(row, row.Rect, src, p.from.Min.Add(image.Pt(0, from)).Sub(place), draw.Src)
		sumRow(sums, row.Pix, fromW, p.width)
		for units := p.height; units > 0; {
			take := min(units, left)
			for i, s := range sums {
				total[i] += uint64(s) * uint64(take)
			}
			units -= take
			if left -= take; left == 0 {
				pixels := out.Pix[y*out.Stride:]
				for i, t := range total {
					pixels[i] = byte((t + area/2) / area)
				}
				clear(total)
				y, left = y+1, fromH
			}
		}
	}
	return out, nil
}

// sumRow adds up the pixels that each column of the result stands for.
func sumRow(sums []uint32, pixels []byte, fromW, width int) {
	clear(sums)
	x, left := 0, fromW
	for from := range fromW {
		px := pixels[4*from : 4*from+4 : 4*from+4]
		for units := width; units > 0; {
			take := min(units, left)
			s, n := sums[4*x:4*x+4:4*x+4], uint32(take)
			s[0] += uint32(px[0]) * n
			s[1] += uint32(px[1]) * n
			s[2] += uint32(px[2]) * n
			s[3] += uint32(px[3]) * n
			units -= take
			if left -= take; left == 0 {
				x, left = x+1, fromW
			}
		}
	}
}

// upright turns and mirrors a picture as its orientation says.
func upright(src *image.RGBA, orientation int) *image.RGBA {
	w, h := src.Rect.Dx(), src.Rect.Dy()
	var from func(x, y int) (int, int)
	switch orientation {
	case 2:
		from = func(x, y int) (int, int) { return w - 1 - x, y }
	case 3:
		from = func(x, y int) (int, int) { return w - 1 - x, h - 1 - y }
	case 4:
		from = func(x, y int) (int, int) { return x, h - 1 - y }
	case 5:
		from = func(x, y int) (int, int) { return y, x }
	case 6:
		from = func(x, y int) (int, int) { return y, h - 1 - x }
	case 7:
		from = func(x, y int) (int, int) { return w - 1 - y, h - 1 - x }
	case 8:
		from = func(x, y int) (int, int) { return w - 1 - y, x }
	default:
		return src
	}
	outW, outH := w, h
	if orientation >= 5 {
		outW, outH = h, w
	}
	out := image.NewRGBA(image.Rect(0, 0, outW, outH))
	for y := range outH {
		for x := range outW {
			sx, sy := from(x, y)
			copy(out.Pix[out.PixOffset(x, y):][:4], src.Pix[src.PixOffset(sx, sy):][:4])
		}
	}
	return out
}

// encode writes what is opaque as JPEG, which is small, and the rest as PNG.
func encode(small *image.RGBA) (Picture, error) {
	p := Picture{Width: small.Rect.Dx(), Height: small.Rect.Dy()}
	var out bytes.Buffer
	var err error
	if small.Opaque() {
		p.Type, err = "image/jpeg", jpeg.Encode(&out, small, &jpeg.Options{Quality: 85})
	} else {
		p.Type, err = "image/png", png.Encode(&out, small)
	}
	if err != nil {
		return Picture{}, errors.Join(errors.New("thumbnail: encode"), err)
	}
	p.Data = out.Bytes()
	return p, nil
}
