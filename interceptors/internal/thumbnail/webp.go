package thumbnail

import (
	"bytes"
	"encoding/binary"
	"image"
	"io"
)

// An animated WebP has its pictures in chunks "ANMF": where they stand, how large they are,
// how long they are shown, and then the chunks that a WebP with one picture has. The decoder
// knows no animations, so it is given the first frame as a picture of its own.

// webpFrame is where the chunks of a frame stand in the file, and their length.
type webpFrame struct {
	at, length    int64
	width, height int
	// place is where it stands on the canvas.
	place image.Point
	alpha bool
}

// webpFrame reads the beginning of a frame, whose chunk begins at a place in the file.
func (f *fields) webpFrame(canvas header, at, length, size int64) header {
	const chunkHeader, frameHeader = 8, 16
	if length < frameHeader+chunkHeader || at+chunkHeader+length > size {
		return f.broken("a WebP with a frame that has no picture")
	}
	at += chunkHeader
	h := canvas
	h.frame = webpFrame{
		at: at + frameHeader, length: length - frameHeader,
		width: int(f.little(at+6, 4)&0xffffff + 1), height: int(f.little(at+8, 4)>>8 + 1),
		place: image.Pt(2*int(f.little(at, 4)&0xffffff), 2*int(f.little(at+2, 4)>>8)),
	}
	h.frame.alpha = f.big(h.frame.at, 4) == 0x414c5048 // "ALPH"
	if h.frame.place.X+h.frame.width > h.width || h.frame.place.Y+h.frame.height > h.height {
		return f.broken("a WebP with a frame beside its canvas")
	}
	h.cost = losslessCost(h) + 3*macroblocks(h) + size
	return h
}

// alone returns a frame as a file of its own.
func (w webpFrame) alone(src io.ReaderAt) io.Reader {
	const alphaBit, extended = 1 << 4, 10
	head := []byte("RIFF....WEBPVP8X")
	binary.LittleEndian.PutUint32(head[4:], uint32(4+8+extended+w.length)) // less than that of the file, which has 32 bits
	head = binary.LittleEndian.AppendUint32(head, extended)
	flags := uint32(0)
	if w.alpha {
		flags = alphaBit
	}
	head = binary.LittleEndian.AppendUint32(head, flags)
	for _, n := range []int{w.width - 1, w.height - 1} {
		head = append(head, byte(n), byte(n>>8), byte(n>>16))
	}
	return io.MultiReader(bytes.NewReader(head), io.NewSectionReader(src, w.at, w.length))
}
