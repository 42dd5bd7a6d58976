package terminal

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Progress shows how far something is. It shows nothing without a terminal.
type Progress struct {
	bar *progressbar.ProgressBar
}

// Progress begins to show something. total is how much there is to do, -1 when nobody knows;
// size reports whether that is in bytes.
func (t *Terminal) Progress(what string, total int64, size bool) *Progress {
	if !t.moves {
		return &Progress{}
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(t.err), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(size),
		progressbar.OptionShowCount(), progressbar.OptionSetWidth(20),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false),
		// Nothing turns by itself: that races with what is shown (v3.19.1).
		progressbar.OptionSetSpinnerChangeInterval(0),
	}
	if total >= 0 { // else the last of it might not be shown
		options = append(options, progressbar.OptionThrottle(100*time.Millisecond))
	}
	return &Progress{bar: progressbar.NewOptions64(total, options...)}
}

// Set says how much is done, of a total that may have changed.
func (p *Progress) Set(done, total int64) {
	if p.bar == nil {
		return
	}
	if total > 0 && total != p.bar.GetMax64() {
		p.bar.ChangeMax64(total)
	}
	// What cannot be shown is not needed.
	_ = p.bar.Set64(done)
}

// End removes it.
func (p *Progress) End() {
	if p.bar != nil {
		_ = p.bar.Finish() // as above
	}
}

// Reader shows how much was read.
func (p *Progress) Reader(r io.Reader) io.Reader {
	if p.bar == nil {
		return r
	}
	return io.TeeReader(r, p.bar)
}

// Writer shows how much was written.
func (p *Progress) Writer(w io.Writer) io.Writer {
	if p.bar == nil {
		return w
	}
	return io.MultiWriter(w, p.bar)
}
