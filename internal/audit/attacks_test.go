package audit

import (
	"slices"
	"testing"
)

// Attack: somebody who can write to the database changes the log. The first record that is
// wrong is named. In every row a record was moved, changed or dropped, or its hash was, and
// nothing else made to fit.
func TestTamperingIsFoundAndTheFirstWrongRecordNamed(t *testing.T) {
	t.Parallel()
	if bad := found(t, logOf(37)); bad != nil {
		t.Fatalf("a log that nobody touched: %v", bad)
	}
	for name, tc := range map[string]struct {
		change func(m *memory)
		first  int64
	}{
		"a record was changed": {func(m *memory) { m.records[11].Data = decision(12).Encode() }, 11},
		"one byte of a record was changed": {func(m *memory) {
			m.records[11].Data = slices.Clone(m.records[11].Data)
			m.records[11].Data[30] ^= 1
		}, 11},
		"a record was dropped":         {func(m *memory) { m.records = slices.Delete(m.records, 5, 6) }, 5},
		"the first record was dropped": {func(m *memory) { m.records = m.records[1:] }, 0},
		"the last record was dropped":  {func(m *memory) { m.records = m.records[:36] }, 36},
		"a record was dropped, the others moved up": {func(m *memory) {
			m.records = slices.Delete(m.records, 5, 6)
			for i := range m.records {
				m.records[i].Seq = int64(i)
			}
		}, 5},
		"two records were exchanged": {func(m *memory) {
			m.records[3].Data, m.records[20].Data = m.records[20].Data, m.records[3].Data
		}, 3},
		"the record of another account was put in the place of one": {func(m *memory) { m.records[8].Data = m.records[7].Data }, 8},
		"a record was put back in time":                             {func(m *memory) { m.records[8].At = when(1) }, 8},
		"a record does not open":                                    {func(m *memory) { m.records[9].Err = ErrMalformed }, 9},
		"the hash of a record was changed":                          {func(m *memory) { m.hashes[slices.IndexFunc(m.hashes, isIndex(LeafIndex(16)))].Hash[3]++ }, 16},
		"the hash of a record is missing":                           {func(m *memory) { m.hashes = slices.DeleteFunc(m.hashes, isIndex(LeafIndex(16))) }, 16},
		"a hash inside the tree was changed":                        {func(m *memory) { m.hashes[slices.IndexFunc(m.hashes, isIndex(LeafIndex(15)+2))].Hash[3]++ }, 15},
	} {
		m := logOf(37)
		tc.change(m)
		bad := found(t, m)
		if bad == nil || bad.From != tc.first || bad.To != tc.first+1 {
			t.Errorf("%s: %v, want record %d", name, bad, tc.first)
		}
	}
}

func isIndex(i int64) func(StoredHash) bool {
	return func(h StoredHash) bool { return h.Index == i }
}

// Attack: somebody who also has the key of the log makes tree and head fit what was
// changed. Only a checkpoint that was kept elsewhere shows it, and several say between which
// of them the first wrong record is.
func TestCheckpointsKeptElsewhereFindAForkedLog(t *testing.T) {
	t.Parallel()
	var kept []Checkpoint
	m := &memory{}
	for i := range 40 {
		m.add(decision(i))
		if i%10 == 9 {
			kept = append(kept, Checkpoint{m.head.Size, m.head.Root()})
		}
	}
	if bad := found(t, m, kept...); bad != nil {
		t.Fatal(bad)
	}
	m.add(decision(40), decision(41))
	if bad := found(t, m, kept[2], kept[0], kept[3]); bad != nil {
		t.Fatalf("the log went on: %v", bad)
	}
	for name, tc := range map[string]struct {
		change   func(m *memory)
		from, to int64
	}{
		"changed":     {func(m *memory) { m.records[14] = Stored{Seq: 14, At: when(99), Data: decision(99).Encode()} }, 10, 20},
		"dropped":     {func(m *memory) { m.records = slices.Delete(m.records, 25, 26) }, 20, 30},
		"exchanged":   {func(m *memory) { m.records[1], m.records[35] = m.records[35], m.records[1] }, 0, 10},
		"salted anew": {func(m *memory) { m.records[31].Data = decision(31).Encode() }, 30, 40},
		"forked":      {func(m *memory) { m.records = append(m.records[:30:30], logOf(12).records...) }, 30, 40},
	} {
		forged := logOf(0)
		forged.records = slices.Clone(m.records)
		tc.change(forged)
		forged.rebuild()
		if bad := found(t, forged); bad != nil {
			t.Errorf("%s: without a checkpoint nobody can tell, and yet: %v", name, bad)
		}
		if bad := found(t, forged, kept...); bad == nil || bad.From != tc.from || bad.To != tc.to {
			t.Errorf("%s: %v, want records %d to %d", name, bad, tc.from, tc.to)
		}
	}
}

// Attack: the end of the log is cut off, with its hashes, or the whole log is emptied.
func TestAShortenedLogIsFound(t *testing.T) {
	t.Parallel()
	m := logOf(20)
	kept := Checkpoint{m.head.Size, m.head.Root()}
	for _, size := range []int{19, 16, 1, 0} {
		short := logOf(0)
		short.records = slices.Clone(m.records[:size])
		short.rebuild()
		if bad := found(t, short, kept); bad == nil || bad.From != int64(size) || bad.To != 20 {
			t.Errorf("cut to %d records: %v", size, bad)
		}
	}
	// The head alone does not hide it either.
	m.head.Size, m.head.Right = 16, slices.Clone(logOf(16).head.Right)
	if bad := found(t, m); bad == nil || bad.From != 0 || bad.To != 0 {
		t.Errorf("another head: %v", bad)
	}
}

// What was removed because of its age is told apart from what was dropped: the log says
// under which checkpoint it was removed, older checkpoints can still be checked, and the
// hashes that are left cannot be changed.
func TestTruncation(t *testing.T) {
	t.Parallel()
	var kept []Checkpoint
	m := &memory{}
	for i := range 40 {
		m.add(decision(i))
		if i == 9 || i == 29 {
			kept = append(kept, Checkpoint{m.head.Size, m.head.Root()})
		}
	}
	m.truncate(t, 8)
	m.add(decision(41))
	m.truncate(t, 21)
	m.add(decision(43))
	report, err := Verify(t.Context(), m, signer(t), kept)
	if err != nil || report.KeptFrom != 21 || !report.RemovedAt.Equal(when(42)) || len(report.Matched) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	for name, tc := range map[string]struct {
		change   func(m *memory)
		from, to int64
	}{
		"more was dropped than removed":  {func(m *memory) { m.records = m.records[1:] }, 21, 22},
		"that more was removed is a lie": {func(m *memory) { m.records, m.head.KeptFrom = m.records[4:], 25 }, 0, 25},
		"a hash of what was removed":     {func(m *memory) { m.hashes[slices.IndexFunc(m.hashes, isIndex(LeafIndex(4)))].Hash[0]++ }, 5, 6},
		"the record of it was dropped":   {func(m *memory) { m.records = slices.Delete(m.records, 21, 22) }, 42, 43},
	} {
		bad := &memory{head: Head{Tree{m.head.Size, slices.Clone(m.head.Right)}, m.head.KeptFrom}, records: slices.Clone(m.records), hashes: slices.Clone(m.hashes)}
		tc.change(bad)
		if got := found(t, bad); got == nil || got.From != tc.from || got.To != tc.to {
			t.Errorf("%s: %v, want records %d to %d", name, got, tc.from, tc.to)
		}
	}
}

// A proxy that removes old records while somebody verifies is not taken for a thief.
func TestTruncationMeanwhile(t *testing.T) {
	t.Parallel()
	m := logOf(12)
	heads := 0
	m.onHead = func() {
		if heads++; heads == 2 {
			m.truncate(t, 5)
		}
	}
	whole := m.records
	m.records = m.records[3:] // as a reader sees it that is too slow
	report, err := Verify(t.Context(), m, signer(t), nil)
	if err != nil || report.KeptFrom != 5 || heads < 3 {
		t.Errorf("%+v, %v after %d looks (%d records)", report, err, heads, len(whole))
	}
}
