package store

import (
	"errors"
	"time"
)

// Several processes may share a PostgreSQL database, as replicas of a cluster. Each has a row
// in the table replicas, which it renews as a single process renews its lease, and which says
// by PostgreSQL's clock until when others must take it for alive.
//
// An account belongs to one replica at most: its row names the owner, and an epoch that every
// change of owner raises. An [Account] that was claimed carries the epoch, and every
// transaction that writes for it checks, in the transaction, that the row has this owner and
// epoch still, or writes nothing ([ErrNotOwner]). The check locks the row against who wants to
// take the account, who so waits for writers that are under way; PostgreSQL throws out one that
// is frozen. A replica that was stopped and goes on therefore uses no ratchet of an account
// that was taken meanwhile, however late it is: the end of its row's time tells others when
// they may take its accounts, and protects nothing.
//
// Every check also compares the timeline of the server, before any epoch: a standby that
// takes over may lack the latest change of owner, and an older owner would find its epoch
// there. And it compares the beat of the replica's row, so that a database which was set back
// is noticed by the next write.
//
// Transactions that are no account's, such as housekeeping, check that the replica's own row is
// there. Who takes the database for one process alone, or finds that it was restored, deletes
// the rows of all replicas.

// Cluster makes a process one of several on a PostgreSQL database.
type Cluster struct {
	// Advertise is where other replicas reach this one.
	Advertise string
	// Lost, which may be nil, is called when it was found that an account is no longer ours,
	// with what [DB.Claim] returned for it. Calls come one after the other, outside of all
	// locks, from a goroutine that ends with [DB.Close].
	Lost func(*Account)
}

// clusterLease is how long a replica that died keeps its accounts from others.
const clusterLease = 3 * time.Second

// Replica is a live process of a cluster.
type Replica struct {
	Name      string // random, new with every start
	Process   string // where it runs, for people
	Advertise string
	Self      bool
	// Draining reports whether it takes no more accounts, see [DB.Drain].
	Draining bool
	// Accounts is how many accounts it has; only [DB.Replicas] counts them.
	Accounts int
	// ExpiresIn is how much longer others take it for alive if it is not.
	ExpiresIn time.Duration
}

// OwnerState says whose an account is. The zero value says nothing.
type OwnerState int

// An account is nobody's if no live replica has it, and if it does not exist.
const (
	OwnerUnknown OwnerState = iota
	OwnerNobody
	OwnerHere
	OwnerElsewhere
)

// Owner is whose an account is.
type Owner struct {
	State   OwnerState
	Replica Replica // with OwnerElsewhere
}

var (
	// ErrNotOwner means that this replica does not own the account, or no longer. Nothing was
	// written: drop what is in memory of it.
	ErrNotOwner = errors.New("the account is not this replica's")
	// ErrElsewhere means that another replica owns the account; see [ElsewhereError].
	ErrElsewhere = errors.New("the account is another replica's")
)

// ElsewhereError says which replica owns an account.
type ElsewhereError struct{ Replica Replica }

func (e *ElsewhereError) Error() string {
	return ErrElsewhere.Error() + ": e2ee-proxy on " + e.Replica.Process
}

func (e *ElsewhereError) Unwrap() error { return ErrElsewhere }
