package exchange

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

// Spools makes the spools of all handlers, so that their use of the disk is limited: for
// each user, and for all together.
type Spools struct {
	// Dir is where what is too large for memory is kept, encrypted.
	Dir string
	// Disk and RAM limit what is kept. What exceeds RAM goes to the disk, so that nobody is
	// refused for it.
	Disk, RAM *budget.Budget
	// Pool has those of up to half of its size that are not ciphertext, instead of the disk; nil: none.
	Pool *spool.Pool
	// Files are used again for bodies whose size is known; nil: none are.
	Files *spool.Files
}

// New makes a spool for a user. Zero memory is the spool's default.
func (s Spools) New(owner id.UserID, memory int) *spool.Spool {
	return spool.New(spool.Options{Dir: s.Dir, Memory: memory, Disk: s.Disk, RAM: s.RAM, Owner: string(owner), Pool: s.Pool})
}

// NewOfSize is like New for a body whose size is expected, as far as it is known: a file of one that
// is gone is used again, which saves what making and removing it costs.
func (s Spools) NewOfSize(owner id.UserID, expected int64) *spool.Spool {
	return spool.New(spool.Options{
		Dir: s.Dir, Disk: s.Disk, RAM: s.RAM, Owner: string(owner), Pool: s.Pool, Files: s.Files, Expected: expected,
	})
}

// NewOfCiphertext is like New, for what is encrypted already. expected is its size, as far as it is
// known.
func (s Spools) NewOfCiphertext(owner id.UserID, expected int64) *spool.Spool {
	return spool.New(spool.Options{
		Dir: s.Dir, Disk: s.Disk, RAM: s.RAM, Owner: string(owner), Ciphertext: true, Files: s.Files, Expected: expected,
	})
}

// Spooling returns a reader that copies what is read from a body into a spool. A scan of it looks at
// what is in the spool, as long as that is memory.
func Spooling(from io.Reader, keep *spool.Spool) io.Reader { return &spoolingReader{from, keep} }

const (
	// leastRead and mostRead are how much is read of a body at once into the memory of its spool, in
	// bytes: what was read is looked at before the processor's cache has forgotten it.
	leastRead, mostRead = 4 << 10, 128 << 10
)

// spoolingReader copies what it reads into a spool.
type spoolingReader struct {
	from io.Reader
	keep *spool.Spool
}

// Keeping returns a writer to a spool. Whether an error is its is told by [SpoolFailure].
func Keeping(keep *spool.Spool) io.Writer { return keeping{keep} }

// keeping is Keeping's writer.
type keeping struct{ *spool.Spool }

func (k keeping) Write(p []byte) (int, error) {
	n, err := k.Spool.Write(p)
	if err != nil {
		return n, &spoolError{err}
	}
	return n, nil
}

// spoolError is an error of the spool, as opposed to one of the homeserver.
type spoolError struct{ err error }

func (e *spoolError) Error() string { return "keep a body: " + e.err.Error() }
func (e *spoolError) Unwrap() error { return e.err }

func (r *spoolingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		if _, failed := Keeping(r.keep).Write(p[:n]); failed != nil {
			return 0, failed
		}
	}
	return n, err
}

// More implements [jsonscan.Whole].
func (r *spoolingReader) More() (all []byte, whole bool, err error) {
	room := r.keep.Room(leastRead)
	if room == nil {
		return nil, false, nil
	}
	n, err := r.from.Read(room[:min(len(room), mostRead)])
	return r.keep.Wrote(n), true, err //nolint:wrapcheck // it is the reader's, io.EOF above all
}

// SpoolFailure returns the client's error for a spool that took no more; nil when err is
// something else.
func SpoolFailure(err error) error {
	var own *spoolError
	switch {
	case errors.Is(err, budget.ErrNever):
		return &apierr.Error{
			Status: http.StatusBadGateway, ErrCode: apierr.CodeTooLarge, Err: err,
			Text: "This is larger than what one account may have kept on the proxy's disk.",
			Hint: "The administrator can allow more with limits.spool_disk_per_user.",
		}
	case errors.Is(err, budget.ErrSpent):
		busy := apierr.LimitExceeded(5 * time.Second)
		busy.Text, busy.Hint = "There is no room on the proxy's disk at the moment.", "Try again in a moment."
		return busy.Because(fmt.Errorf("keep a body: %w", err))
	case errors.As(err, &own):
		return err
	}
	return nil
}
