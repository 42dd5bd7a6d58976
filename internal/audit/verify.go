package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"
)

// Log is a log as it is stored.
type Log interface {
	// Head returns what the log is said to be; an error that is a [*TamperedError] means that it
	// was changed.
	Head(ctx context.Context) (Head, error)
	// Records returns the records from a number on, Hashes the hashes, in order.
	Records(ctx context.Context, from int64) iter.Seq2[Stored, error]
	Hashes(ctx context.Context, from int64) iter.Seq2[StoredHash, error]
}

// Head is the end of a log. Records before KeptFrom were removed because of their age; their
// hashes are there.
type Head struct {
	Tree
	KeptFrom int64
}

// Stored is a record as it is stored.
type Stored struct {
	Seq int64
	At  time.Time
	// Data are the record's bytes; Err says why they cannot be had.
	Data []byte
	Err  error
}

// Report is what a verification has found to be in order.
type Report struct {
	Checkpoint       // of the whole log
	KeptFrom   int64 // the records before it were removed because of their age
	RemovedAt  time.Time
	Matched    []Checkpoint // those kept elsewhere that the log leads to
}

// TamperedError is an error: the log is not what it was. The records from From up to and without
// To are those of which that is known; none if To is not larger.
type TamperedError struct {
	From, To int64
	What     string
}

func (e *TamperedError) Error() string {
	switch {
	case e.To == e.From+1:
		return fmt.Sprintf("record %d %s", e.From, e.What)
	case e.To > e.From:
		return fmt.Sprintf("records %d to %d %s", e.From, e.To-1, e.What)
	default:
		return e.What
	}
}

// wrong is a TamperedError about one record.
func wrong(seq int64, what string) error { return &TamperedError{seq, seq + 1, what} }

// Verify reads the whole log, makes its tree anew, and compares it with what is stored of
// the tree and with checkpoints that were kept elsewhere. The error is a [*TamperedError] for the
// first record that is wrong.
func Verify(ctx context.Context, log Log, key *Signer, kept []Checkpoint) (Report, error) {
	for {
		head, err := log.Head(ctx)
		if err != nil {
			return Report{}, err
		}
		report, err := verify(ctx, log, head, key, kept)
		var found *TamperedError
		if !errors.As(err, &found) {
			return report, err
		}
		// A proxy that runs may have removed old records meanwhile, or begun the log.
		again, headErr := log.Head(ctx)
		if headErr != nil {
			return Report{}, headErr
		}
		if again.KeptFrom == head.KeptFrom && (head.Size > 0 || again.Size == 0) {
			return Report{}, err
		}
	}
}

// check is one walk through a log.
type check struct {
	head   Head
	key    *Signer
	kept   []Checkpoint // by size
	good   int64        // the largest size of a checkpoint that holds
	tree   Tree
	report Report

	records *pulled[Stored]
	hashes  *pulled[StoredHash]
	// atCut is the root of what was removed, removed whether a record says so.
	atCut   Hash
	removed bool
}

func verify(ctx context.Context, log Log, head Head, key *Signer, kept []Checkpoint) (Report, error) {
	c := &check{head: head, key: key, kept: slices.Clone(kept), report: Report{KeptFrom: head.KeptFrom}}
	slices.SortStableFunc(c.kept, func(a, b Checkpoint) int { return int(min(max(a.Size-b.Size, -1), 1)) })
	c.records, c.hashes = pull(log.Records(ctx, head.KeptFrom)), pull(log.Hashes(ctx, 0))
	defer c.records.stop()
	defer c.hashes.stop()
	if err := c.checkpoints(); err != nil {
		return Report{}, err
	}
	var hashes []StoredHash
	for seq := range head.Size {
		if err := ctx.Err(); err != nil {
			return Report{}, err
		}
		leaf, err := c.leaf(seq)
		if err != nil {
			return Report{}, err
		}
		hashes = c.tree.Append(leaf, hashes[:0])
		for _, want := range hashes[1:] { // leaf has compared the first
			if have, ok, err := c.hashes.next(); err != nil {
				return Report{}, err
			} else if !ok || have != want {
				return Report{}, wrong(seq, "is where the stored tree begins to be another")
			}
		}
		if err := c.checkpoints(); err != nil {
			return Report{}, err
		}
		if c.tree.Size == head.KeptFrom {
			c.atCut = c.tree.Root()
		}
	}
	return c.end()
}

// leaf returns the hash of a record: from the record, or as it is stored where the record
// was removed.
func (c *check) leaf(seq int64) (Hash, error) {
	stored, ok, err := c.hashes.next()
	switch {
	case err != nil:
		return Hash{}, err
	case !ok || stored.Index != LeafIndex(seq):
		return Hash{}, wrong(seq, "has no hash in the stored tree")
	case seq < c.head.KeptFrom:
		return stored.Hash, nil
	}
	row, ok, err := c.records.next()
	switch {
	case err != nil:
		return Hash{}, err
	case !ok || row.Seq != seq:
		return Hash{}, wrong(seq, "is missing")
	case row.Err != nil:
		return Hash{}, wrong(seq, "was changed, or is not in its place: "+row.Err.Error())
	case LeafOf(row.Data) != stored.Hash:
		return Hash{}, wrong(seq, "is not the one that the stored tree has")
	}
	record, err := Decode(row.Data)
	switch {
	case err != nil:
		return Hash{}, wrong(seq, "cannot be read: "+err.Error())
	case !record.At.Equal(row.At):
		return Hash{}, wrong(seq, "has another time than its row")
	case record.Kind == KindTruncated:
		c.truncation(record)
	}
	return stored.Hash, nil
}

// truncation looks whether a record explains what was removed.
func (c *check) truncation(r *Record) {
	at, err := c.key.Read([]byte(r.Note))
	if err == nil && at.Size == c.head.KeptFrom && at.Root == c.atCut {
		c.removed, c.report.RemovedAt = true, r.At
	}
}

// checkpoints compares the tree with the checkpoints of its size.
func (c *check) checkpoints() error {
	for len(c.kept) > 0 && c.kept[0].Size == c.tree.Size {
		one := c.kept[0]
		if one.Root != c.tree.Root() {
			return &TamperedError{c.good, one.Size, fmt.Sprintf("are not those of the checkpoint of %d records: the log leads to another one", one.Size)}
		}
		c.good, c.kept = one.Size, c.kept[1:]
		c.report.Matched = append(c.report.Matched, one)
	}
	return nil
}

func (c *check) end() (Report, error) {
	if c.head.Size == 0 {
		if _, some, err := c.hashes.next(); err != nil {
			return Report{}, err
		} else if some {
			return Report{}, &TamperedError{What: "the head of the log says that it is empty, and it is not"}
		}
	}
	switch {
	case !slices.Equal(c.tree.Right, c.head.Right):
		return Report{}, &TamperedError{What: "the end of the log is not what its records lead to"}
	case c.head.KeptFrom > 0 && !c.removed:
		return Report{}, &TamperedError{0, c.head.KeptFrom, "are missing, and no record says that they were removed because of their age"}
	case len(c.kept) > 0:
		longest := c.kept[len(c.kept)-1].Size
		return Report{}, &TamperedError{c.tree.Size, longest, fmt.Sprintf("are missing: the log is shorter than the checkpoint of %d records", longest)}
	}
	c.report.Checkpoint = Checkpoint{c.tree.Size, c.tree.Root()}
	return c.report, nil
}

// pulled is an iterator of which single items are asked for.
type pulled[T any] struct {
	get  func() (T, error, bool)
	stop func()
}

func pull[T any](seq iter.Seq2[T, error]) *pulled[T] {
	get, stop := iter.Pull2(seq)
	return &pulled[T]{get, stop}
}

func (p *pulled[T]) next() (item T, ok bool, err error) {
	item, err, ok = p.get()
	return item, ok, err
}
