package thumbnail

import (
	"encoding/binary"
	"fmt"
)

// jpeg walks over a JPEG's segments to its frame header, and reads the orientation on the
// way. Only what leaves no doubt where a segment ends is taken, so that the decoder cannot
// see another frame than the one that was judged here.
func (f *fields) jpeg() header {
	const mostSegments = 2048
	orientation, adobe := 0, false
	at := int64(2)
	for range mostSegments {
		if f.big(at, 1) != 0xff {
			return f.broken("a JPEG with bytes between its segments")
		}
		marker := f.big(at+1, 1)
		if marker == 0xff { // bytes that fill
			at++
			continue
		}
		length := f.big(at+2, 2)
		if f.err != nil {
			return header{}
		}
		if length < 2 {
			return f.broken("a JPEG with a segment that has no length")
		}
		switch marker {
		case 0xc0, 0xc1, 0xc2:
			h := f.frame(at+4, marker == 0xc2, adobe)
			h.orientation = max(1, orientation)
			return h
		case 0xe1:
			if orientation == 0 {
				orientation = f.orientation(at+4, length-2)
			}
		case 0xee:
			adobe = true
		case 0xc4, 0xdb, 0xdd, 0xfe: // tables and comments
		default:
			if marker < 0xe0 || marker > 0xef {
				return f.broken(fmt.Sprintf("a JPEG with a segment %#x before its picture", marker))
			}
		}
		at += 2 + length
	}
	f.err = fmt.Errorf("%w: a JPEG with too many segments", ErrTooLarge)
	return header{}
}

// frame reads a frame header. A decoder keeps the samples of whole blocks, of a progressive
// picture its coefficients too, and a second copy where colours are not the usual ones.
func (f *fields) frame(at int64, progressive, adobe bool) header {
	h := header{format: formatJPEG, height: int(f.big(at+1, 2)), width: int(f.big(at+3, 2))}
	components := f.big(at+5, 1)
	if components < 1 || components > 4 {
		return f.broken("a JPEG with an unknown kind of colours")
	}
	var blocks, across, down int64
	for i := range components {
		factors := f.big(at+7+3*i, 1)
		x, y := factors>>4, factors&15
		if x < 1 || x > 4 || y < 1 || y > 4 {
			return f.broken("a JPEG with unknown sampling")
		}
		if components == 1 {
			x, y = 1, 1 // one component has nothing to be sampled against
		}
		if i == 0 {
			across, down = x, y
		}
		blocks += x * y
	}
	// A picture is made of units, each of which has some blocks of every component.
	wide := (int64(h.width) + 8*across - 1) / (8 * across)
	high := (int64(h.height) + 8*down - 1) / (8 * down)
	h.cost = 64 * wide * high * blocks
	if progressive {
		h.cost *= 5
	}
	if first := f.big(at+6, 1); adobe || components == 4 || first == 'R' {
		h.cost += 4 * int64(h.width) * int64(h.height)
	}
	return h
}

// orientation reads how a picture is to be turned from a segment with EXIF (a TIFF file
// inside the JPEG, tag 0x0112 of its first directory). Zero if there is no such segment.
// What it says wrongly turns no picture and refuses none.
func (f *fields) orientation(at, length int64) int {
	const intro, mostEntries = 6, 512
	exif := &fields{src: f.src}
	if length < intro+8 || exif.big(at, 4) != 0x45786966 {
		return 0
	}
	at += intro
	var order binary.ByteOrder = binary.BigEndian
	if exif.big(at, 2) == 0x4949 {
		order = binary.LittleEndian
	}
	directory := exif.number(at+4, 4, order)
	if directory+2 > length-intro {
		return 1
	}
	for i := range min(mostEntries, exif.number(at+directory, 2, order)) {
		entry := directory + 2 + 12*i
		if entry+12 > length-intro || exif.err != nil {
			break
		}
		if exif.number(at+entry, 2, order) != 0x0112 {
			continue
		}
		if o := exif.number(at+entry+8, 2, order); o >= 1 && o <= 8 {
			return int(o)
		}
		break
	}
	return 1
}
