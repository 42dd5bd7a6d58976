package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// HashSize is the size of a hash in bytes.
const HashSize = tlog.HashSize

// Hash is a hash of the tree.
type Hash = tlog.Hash

// LeafOf returns the hash of a record's bytes.
func LeafOf(record []byte) Hash { return tlog.RecordHash(record) }

// Tree is a Merkle tree without its inside: how many leaves it has, and the complete
// subtrees they make, the largest first. That is all that is needed to add to it, so that
// an append reads one row.
type Tree struct {
	Size  int64
	Right []Hash
}

// StoredHash is a hash of the tree, under the number by which tlog knows it.
type StoredHash struct {
	Index int64
	Hash  Hash
}

// Append adds a leaf, and appends to hashes those that are to be stored: they have the next
// numbers, without a gap.
func (t *Tree) Append(leaf Hash, hashes []StoredHash) []StoredHash {
	h := leaf
	hashes = append(hashes, StoredHash{tlog.StoredHashIndex(0, t.Size), h})
	for level, n := 1, t.Size; n&1 == 1; level, n = level+1, n>>1 {
		last := len(t.Right) - 1
		h = tlog.NodeHash(t.Right[last], h)
		t.Right = t.Right[:last]
		hashes = append(hashes, StoredHash{tlog.StoredHashIndex(level, n>>1), h})
	}
	t.Right = append(t.Right, h)
	t.Size++
	return hashes
}

// Root returns the hash of the whole tree, which a checkpoint has.
func (t *Tree) Root() Hash {
	if len(t.Right) == 0 {
		return Hash{}
	}
	h := t.Right[len(t.Right)-1]
	for i := len(t.Right) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.Right[i], h)
	}
	return h
}

// HashesOf returns how many hashes are stored for a tree of a size.
func HashesOf(size int64) int64 { return tlog.StoredHashCount(size) }

// LeafIndex returns the number of the hash of a record.
func LeafIndex(seq int64) int64 { return tlog.StoredHashIndex(0, seq) }

// IndicesOfTree returns the numbers of the hashes that make the tree of a size: those of
// [Tree.Right], in order.
func IndicesOfTree(size int64) []int64 {
	var all []int64
	for level, before := maxLevel, int64(0); level >= 0; level-- {
		if size>>level&1 == 1 {
			all = append(all, tlog.StoredHashIndex(level, before>>level))
			before += 1 << level
		}
	}
	return all
}

const maxLevel = 62

// TreeOf returns the tree of a size from those hashes.
func TreeOf(size int64, right []Hash) (Tree, error) {
	if size < 0 || len(IndicesOfTree(size)) != len(right) {
		return Tree{}, fmt.Errorf("%w: %d hashes are not a tree of %d records", ErrMalformed, len(right), size)
	}
	return Tree{size, right}, nil
}
