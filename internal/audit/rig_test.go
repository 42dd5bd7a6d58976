package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"
)

// memory is a log in memory, which a test can change as somebody could who has the
// database.
type memory struct {
	head    Head
	records []Stored
	hashes  []StoredHash
	// heads counts how often the head was read; onHead is called before.
	onHead func()
}

func (m *memory) Head(context.Context) (Head, error) {
	if m.onHead != nil {
		m.onHead()
	}
	return Head{Tree{m.head.Size, slices.Clone(m.head.Right)}, m.head.KeptFrom}, nil
}

func (m *memory) Records(_ context.Context, from int64) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		for _, r := range m.records {
			if r.Seq >= from && !yield(r, nil) {
				return
			}
		}
	}
}

func (m *memory) Hashes(_ context.Context, from int64) iter.Seq2[StoredHash, error] {
	return func(yield func(StoredHash, error) bool) {
		for _, h := range m.hashes {
			if h.Index >= from && !yield(h, nil) {
				return
			}
		}
	}
}

func (m *memory) add(records ...*Record) {
	for _, r := range records {
		m.addBytes(r.At, r.Encode())
	}
}

func (m *memory) addBytes(at time.Time, data []byte) {
	m.records = append(m.records, Stored{Seq: m.head.Size, At: at, Data: data})
	m.hashes = m.head.Append(LeafOf(data), m.hashes)
}

// rebuild makes the tree fit the records again, as somebody can who has the key.
func (m *memory) rebuild() {
	records := m.records
	*m = memory{onHead: m.onHead}
	for _, r := range records {
		m.addBytes(r.At, r.Data)
	}
}

// truncate removes the records before seq as the store does.
func (m *memory) truncate(t *testing.T, seq int64) {
	t.Helper()
	var tree Tree
	for _, h := range m.hashes {
		if h.Index == LeafIndex(tree.Size) && tree.Size < seq {
			tree.Append(h.Hash, nil)
		}
	}
	m.add(&Record{At: when(int(m.head.Size)), Kind: KindTruncated, Note: checkpointOf(t, tree)})
	m.records = slices.DeleteFunc(m.records, func(r Stored) bool { return r.Seq < seq })
	m.head.KeptFrom = seq
}

func checkpointOf(t *testing.T, tree Tree) string {
	t.Helper()
	text, err := signer(t).Write(Checkpoint{tree.Size, tree.Root()})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func signer(t testing.TB) *Signer {
	t.Helper()
	s, err := NewSigner("e2ee-proxy-audit-1", [32]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func when(i int) time.Time { return time.UnixMicro(1_800_000_000_000_000 + int64(i)*1_000_000).UTC() }

// decision is the i-th record of a test's log.
func decision(i int) *Record {
	return &Record{
		At: when(i), Kind: KindRoomKey, Account: fmt.Sprintf("@account%d:x", i%3), Device: "OWN", Ed25519: "own key", Room: fmt.Sprintf("!room%d:x", i%2),
		Session: HashSession(fmt.Sprint(i)), Index: uint32(i), Policy: "p",
		Users: []User{{ID: "@bob:x", Pin: "verified", Master: "master", SelfSigning: "self", Devices: []Recipient{
			{"PHONE", "ed", "curve", Given, "", "signed"}, {"EVIL", "ed2", "curve2", Withheld, "m.unverified", "unsigned"},
		}}},
	}
}

func logOf(n int) *memory {
	m := &memory{}
	for i := range n {
		m.add(decision(i))
	}
	return m
}

// found verifies a log and returns what is wrong with it, nil if nothing is.
func found(t *testing.T, m *memory, kept ...Checkpoint) *TamperedError {
	t.Helper()
	report, err := Verify(t.Context(), m, signer(t), kept)
	var bad *TamperedError
	switch {
	case errors.As(err, &bad):
		return bad
	case err != nil:
		t.Fatal(err)
	case report.Size != m.head.Size || len(report.Matched) != len(kept):
		t.Fatalf("%+v for %d records", report, m.head.Size)
	}
	return nil
}
