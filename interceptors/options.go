package interceptors

import (
	"time"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

// SyncOptions configures the sync handler. Zero fields have the defaults named here.
type SyncOptions struct {
	// ShowEncryptionState shows m.room.encryption to clients that the proxy encrypts for
	// (clients.show_encryption_state).
	ShowEncryptionState bool
	// MaxTimeout is the longest time that a sync may wait at the homeserver: 60 s.
	MaxTimeout time.Duration
	// KeyWait is how long a client's first sync, and every read of history, waits for room
	// keys from the account's backup (clients.key_wait). Zero does not wait.
	KeyWait time.Duration
	// SpoolDir is where responses too large for memory are kept, encrypted, until they are
	// sent: the system's directory for temporary files.
	SpoolDir string
	// SpoolDisk limits the use of SpoolDir: [NewSpoolDisk].
	SpoolDisk *budget.Budget
	// SpoolMemory is how much memory outside the heap responses take before they go to SpoolDir, in bytes;
	// zero: none.
	SpoolMemory int64
	// UpdateMemory limits what is held of responses for the engine, until they are answered:
	// 256 MiB, and 64 MiB for one user.
	UpdateMemory *budget.Budget
	spools       exchange.Spools
}

// Default limits on the disk, in bytes, and in memory.
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
	if o.spools.Disk == nil {
		o.spools = exchange.Spools{
			Dir: o.SpoolDir, Disk: o.SpoolDisk, RAM: budget.New(spoolMemory, spoolMemoryPerUser), Files: spool.NewFiles(o.SpoolDisk),
			Pool: spool.NewPool(o.SpoolMemory),
		}
	}
	if o.UpdateMemory == nil {
		o.UpdateMemory = newUpdateMemory()
	}
	return o
}

// rewriting returns the options of the rewriters.
func (o SyncOptions) rewriting() rewrite.Options {
	return rewrite.Options{ShowEncryption: o.ShowEncryptionState, Spools: o.spools}
}
