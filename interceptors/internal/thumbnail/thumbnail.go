package thumbnail

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/semaphore"
)

// Errors of Make. Others are those of the source, and of a context that ended.
var (
	// ErrNotPicture means that the bytes are none of the formats that are read here.
	ErrNotPicture = errors.New("thumbnail: not a picture of a known format")
	// ErrTooLarge means that the picture's bytes, pixels or memory pass a limit: 413 for a
	// client.
	ErrTooLarge = errors.New("thumbnail: the picture is too large")
	// ErrBroken means that the picture is damaged, or lies about itself: 400 for a client.
	ErrBroken = errors.New("thumbnail: the picture is broken")
	// ErrSmall means that the picture is no larger than what was asked for, so that it is
	// itself what is due: "When the content is smaller than the requested dimensions, servers
	// should return the original content rather than thumbnail it."
	ErrSmall = errors.New("thumbnail: the picture is no larger than that")
)

// MaxSide is the largest width and height that is made; who asks for more gets this.
const MaxSide = 2048

// Method is how a picture is brought to a size.
type Method uint8

// The methods of the specification.
const (
	// Scale keeps all of the picture and its shape: it fits into the size, and is exactly as
	// wide or as high.
	Scale Method = iota
	// Crop fills the size, and cuts off what is too much on two sides.
	Crop
)

// Want is the size that is asked for. Numbers that no picture has are moved to the next
// that one can have.
type Want struct {
	Width, Height int
	Method        Method
}

// Picture is a small picture: a JPEG, or a PNG if it is transparent somewhere.
type Picture struct {
	// Type is its content type.
	Type          string
	Data          []byte
	Width, Height int
}

// Limits bound what one picture may be, and what all may cost at the same time.
type Limits struct {
	// Bytes of a picture, as it is stored.
	Bytes int64
	// Pixels of a picture.
	Pixels int64
	// Memory of all that are decoded at the same time; one that would need more alone is
	// too large.
	Memory int64
	// Time is how long one may take once it has its memory.
	Time time.Duration
}

// DefaultLimits let photographs of today's phones pass.
func DefaultLimits() Limits {
	return Limits{Bytes: 64 << 20, Pixels: 120_000_000, Memory: 256 << 20, Time: 15 * time.Second}
}

// Maker makes thumbnails within limits. Its methods may be called concurrently.
type Maker struct {
	limits Limits
	least  int64
	memory *semaphore.Weighted
}

// New returns a maker.
func New(limits Limits) *Maker {
	// A small picture counts for a processor's part too, so that not more are decoded at the
	// same time than there are processors.
	least := limits.Memory / int64(max(1, runtime.GOMAXPROCS(0)))
	return &Maker{limits: limits, least: least, memory: semaphore.NewWeighted(limits.Memory)}
}

// Make makes a thumbnail of the picture that stands in the first size bytes of src. It
// waits for its turn as long as ctx allows.
func (m *Maker) Make(ctx context.Context, src io.ReaderAt, size int64, want Want) (Picture, error) {
	if size > m.limits.Bytes {
		return Picture{}, ErrTooLarge
	}
	h, err := inspect(src, size)
	if err != nil {
		return Picture{}, err
	}
	if h.width < 1 || h.height < 1 {
		return Picture{}, ErrBroken
	}
	if int64(h.width)*int64(h.height) > m.limits.Pixels {
		return Picture{}, ErrTooLarge
	}
	p, ok := planFor(h, want)
	if !ok {
		return Picture{}, ErrSmall
	}
	cost := max(m.least, h.cost+p.cost())
	if cost > m.limits.Memory {
		return Picture{}, ErrTooLarge
	}
	if err := m.memory.Acquire(ctx, cost); err != nil {
		return Picture{}, fmt.Errorf("thumbnail: wait for others: %w", err)
	}
	defer m.memory.Release(cost)
	inTime, cancel := context.WithTimeout(ctx, m.limits.Time)
	defer cancel()
	made, err := run(inTime, src, size, h, p)
	if err != nil && inTime.Err() != nil && ctx.Err() == nil {
		return Picture{}, fmt.Errorf("%w: it takes too long", ErrTooLarge)
	}
	return made, err
}

// ForSending makes the thumbnail that belongs to a picture that is sent: of 800 × 600, and
// none, which is ErrSmall, for pictures that are no larger (MSC4409).
func (m *Maker) ForSending(ctx context.Context, src io.ReaderAt, size int64) (Picture, error) {
	return m.Make(ctx, src, size, Want{Width: 800, Height: 600, Method: Scale})
}

// run decodes, shrinks and encodes.
func run(ctx context.Context, src io.ReaderAt, size int64, h header, p plan) (Picture, error) {
	var file io.Reader = io.NewSectionReader(src, 0, size)
	if h.frame.length > 0 {
		file = h.frame.alone(src)
	}
	picture, err := decode(ctx, file, h)
	if err != nil {
		return Picture{}, err
	}
	// The frame of an animation may be smaller than what it is shown on; all others are as
	// large as they said.
	canvas := image.Rect(0, 0, h.width, h.height)
	animation := h.format == formatGIF || h.frame.length > 0
	if b := picture.Bounds().Add(h.frame.place); b != canvas && (!animation || !b.In(canvas)) {
		return Picture{}, fmt.Errorf("%w: it is not as large as it said", ErrBroken)
	}
	small, err := shrink(ctx, picture, h.frame.place, p)
	if err != nil {
		return Picture{}, err
	}
	return encode(upright(small, h.orientation))
}
