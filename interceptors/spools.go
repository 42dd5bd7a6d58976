package interceptors

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

// The spools of all handlers are made here, so that their use of the disk is limited: for
// each user, and for all together.

// Default limits on the disk, in bytes, and in memory. What exceeds memory goes to the
// disk, so that nobody is refused for it.
const (
	defaultSpoolDisk        = 4 << 30
	defaultSpoolDiskPerUser = 1 << 30
	spoolMemory             = 256 << 20
	spoolMemoryPerUser      = 32 << 20
)

// NewSpoolDisk returns the budget on the disk for bodies that are too large for memory, for
// all users and for one. Zero is the default: 4 GiB and 1 GiB.
func NewSpoolDisk(total, perUser int64) *budget.Budget {
	if total == 0 {
		total = defaultSpoolDisk
	}
	if perUser == 0 {
		perUser = defaultSpoolDiskPerUser
	}
	return budget.New(total, perUser)
}

// withSpools returns the options with a default budget for the spools, and for what is held
// of syncs.
func (o SyncOptions) withSpools() SyncOptions {
	if o.SpoolDisk == nil {
		o.SpoolDisk = NewSpoolDisk(0, 0)
	}
	if o.spoolRAM == nil {
		o.spoolRAM = budget.New(spoolMemory, spoolMemoryPerUser)
	}
	if o.UpdateMemory == nil {
		o.UpdateMemory = newUpdateMemory()
	}
	return o
}

// spool makes a spool for a request. Zero memory is the spool's default.
func (o SyncOptions) spool(x *Exchange, memory int) *spool.Spool {
	return spool.New(spool.Options{Dir: o.SpoolDir, Memory: memory, Disk: o.SpoolDisk, RAM: o.spoolRAM, Owner: string(x.Identity.UserID)})
}

// spoolFailure returns the client's error for a full budget; nil when err is something
// else.
func spoolFailure(err error) error {
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
	}
	return nil
}

// rewriteFailure returns the client's error for a body that could not be rewritten.
func rewriteFailure(what string, err error) error {
	if full := spoolFailure(err); full != nil {
		return full
	}
	return fmt.Errorf("rewrite %s: %w", what, err)
}
