package thumbnail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// format is a file format of pictures.
type format uint8

const (
	formatJPEG format = iota + 1
	formatPNG
	formatGIF
	formatWebP
)

// header is what the beginning of a file says of a picture.
type header struct {
	format format
	// width and height are those of the pixels as they are stored.
	width, height int
	// orientation is how they are to be turned, a number of EXIF; 1 is upright.
	orientation int
	// cost is how much memory decoding takes at most.
	cost int64
	// frame is the first frame of an animated WebP, which has no picture beside its frames.
	frame webpFrame
}

// inspect reads a header, and nothing else: a few bytes at a time, whatever they say.
func inspect(src io.ReaderAt, size int64) (header, error) {
	var magic [12]byte
	if size < int64(len(magic)) {
		return header{}, ErrNotPicture
	}
	f := &fields{src: io.NewSectionReader(src, 0, size)}
	f.bytes(0, magic[:])
	var h header
	switch {
	case f.err != nil:
		return header{}, f.err
	case string(magic[:3]) == "\xff\xd8\xff":
		h = f.jpeg()
	case string(magic[:8]) == "\x89PNG\r\n\x1a\n":
		h = f.png()
	case string(magic[:6]) == "GIF87a", string(magic[:6]) == "GIF89a":
		h = f.gif()
	case string(magic[:4]) == "RIFF" && string(magic[8:]) == "WEBP":
		h = f.webp(size)
	default:
		return header{}, ErrNotPicture
	}
	if errors.Is(f.err, io.EOF) {
		return header{}, fmt.Errorf("%w: it ends in its header", ErrBroken)
	}
	return h, f.err
}

// fields reads numbers at places of a file. After the first error it reads zeros.
type fields struct {
	src *io.SectionReader
	err error
	buf [4]byte
}

func (f *fields) bytes(at int64, p []byte) {
	if f.err != nil {
		clear(p)
		return
	}
	if n, err := f.src.ReadAt(p, at); n < len(p) {
		clear(p)
		f.err = err
	}
}

func (f *fields) number(at int64, n int, order binary.ByteOrder) int64 {
	b := f.buf[:n]
	f.bytes(at, b)
	switch n {
	case 1:
		return int64(b[0])
	case 2:
		return int64(order.Uint16(b))
	default:
		return int64(order.Uint32(b))
	}
}

func (f *fields) big(at int64, n int) int64    { return f.number(at, n, binary.BigEndian) }
func (f *fields) little(at int64, n int) int64 { return f.number(at, n, binary.LittleEndian) }

func (f *fields) broken(why string) header {
	if f.err == nil {
		f.err = fmt.Errorf("%w: %s", ErrBroken, why)
	}
	return header{}
}

// png reads an IHDR chunk, which is always first. What is decoded has up to 4 bytes a
// pixel, or 8 with deep colours, and once more as much if it is interlaced.
func (f *fields) png() header {
	if f.big(8, 4) != 13 || f.big(12, 4) != 0x49484452 {
		return f.broken("a PNG without a header")
	}
	width, height := f.big(16, 4), f.big(20, 4)
	if width > maxPNGSide || height > maxPNGSide {
		f.err = ErrTooLarge
		return header{}
	}
	h := header{format: formatPNG, width: int(width), height: int(height), orientation: 1}
	perPixel := int64(4)
	switch depth, palette := f.big(24, 1), f.big(25, 1) == 3; {
	case palette:
		perPixel = 1
	case depth == 16:
		perPixel = 8
	}
	if f.big(28, 1) != 0 {
		perPixel *= 2
	}
	h.cost = perPixel*width*height + 32*width
	return h
}

// maxPNGSide keeps products of sizes far from where they overflow; it is what the other
// formats can say at all.
const maxPNGSide = 1<<16 - 1

// gif reads the size of the screen, in which every frame must lie.
func (f *fields) gif() header {
	h := header{format: formatGIF, width: int(f.little(6, 2)), height: int(f.little(8, 2)), orientation: 1}
	h.cost = 2 * int64(h.width) * int64(h.height) // interlaced ones are put in order in a copy
	return h
}

// webp finds the first chunk that tells the size. The decoder holds later ones to it.
func (f *fields) webp(size int64) header {
	const mostChunks = 64 // profiles and the like, before the picture
	var canvas header     // of an animation
	// The decoder allocates what a chunk says it is long, and a chunk may be as long as the
	// whole says.
	if f.little(4, 4)+8 > size+1 {
		return f.broken("a WebP that is shorter than it says")
	}
	at := int64(12)
	for range mostChunks {
		length := f.little(at+4, 4)
		h := header{format: formatWebP, orientation: 1}
		switch f.big(at, 4) {
		case 0x56503820: // "VP8 ": a frame's tag, its start code, and two numbers of 14 bits
			h.width, h.height = int(f.little(at+14, 2)&0x3fff), int(f.little(at+16, 2)&0x3fff)
			h.cost = 2*macroblocks(h) + size
			return h
		case 0x5650384c: // "VP8L"
			bits := f.little(at+9, 4)
			h.width, h.height = int(bits&0x3fff+1), int(bits>>14&0x3fff+1)
			h.cost = losslessCost(h) + size
			return h
		case 0x414e4d46: // "ANMF": a frame of an animation
			return f.webpFrame(canvas, at, length, size)
		case 0x56503858: // "VP8X": flags, and two numbers of 24 bits
			h.width, h.height = int(f.little(at+12, 4)&0xffffff+1), int(f.little(at+14, 4)>>8+1)
			if f.little(at+8, 1)&2 != 0 {
				canvas = h
				break // what there is to see is in frames
			}
			h.cost = losslessCost(h) + 3*macroblocks(h) + size
			return h
		}
		if f.err != nil {
			return header{}
		}
		at += 8 + length + length&1
	}
	return f.broken("a WebP without a picture")
}

// macroblocks returns the pixels of a picture that is made of whole blocks of 16 × 16.
func macroblocks(h header) int64 {
	return (int64(h.width) + 15) * (int64(h.height) + 15)
}

// losslessCost is what a VP8L picture takes: the pixels, twice where colours are indexed,
// and codes, of which a picture can have one group for each tile of 4 × 4 pixels, and at
// most 2600.
func losslessCost(h header) int64 {
	const mostGroups, group = 2600, 53 << 10
	pixels := int64(h.width) * int64(h.height)
	return 9*pixels + min(mostGroups, pixels/4+1)*group
}
