package audit

import (
	"bytes"
	"encoding/csv"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The tree is the one that tlog makes: roots, stored hashes and proofs agree.
func TestTreeIsTlogs(t *testing.T) {
	t.Parallel()
	m := logOf(0)
	reader := tlog.HashReaderFunc(func(indices []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indices))
		for i, at := range indices {
			out[i] = m.hashes[at].Hash
		}
		return out, nil
	})
	for n := range int64(70) {
		want, err := tlog.TreeHash(n, reader)
		if err != nil || (n > 0 && want != m.head.Root()) {
			t.Fatalf("%d records: root %v, want %v, %v", n, m.head.Root(), want, err)
		}
		if int64(len(m.hashes)) != HashesOf(n) {
			t.Fatalf("%d records: %d hashes, want %d", n, len(m.hashes), HashesOf(n))
		}
		right, err := reader.ReadHashes(IndicesOfTree(n))
		if err != nil {
			t.Fatal(err)
		}
		tree, err := TreeOf(n, right)
		if err != nil || cmp.Diff(tree.Root(), m.head.Root()) != "" {
			t.Fatalf("%d records read again: %v, %v", n, tree.Root(), err)
		}
		m.add(decision(int(n)))
	}
	for i, h := range m.hashes {
		if h.Index != int64(i) {
			t.Fatalf("hash %d is stored as %d", i, h.Index)
		}
	}
	// A record is proven by a few hashes, and a checkpoint leads to a later one.
	root := m.head.Root()
	proof, err := tlog.ProveRecord(70, 33, reader)
	if err != nil || tlog.CheckRecord(proof, 70, root, 33, LeafOf(m.records[33].Data)) != nil {
		t.Errorf("a record cannot be proven: %v", err)
	}
	if _, err := TreeOf(7, right(2)); !errors.Is(err, ErrMalformed) {
		t.Errorf("two hashes for seven records: %v", err)
	}
}

func right(n int) []Hash { return make([]Hash, n) }

func TestRecordsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	full := decision(3)
	full.Secret, full.Note, full.Users = "m.cross_signing.master", `a "note" <&> `+"\u2028", append(full.Users, User{ID: "@nobody:x"})
	for _, r := range []*Record{full, {At: when(0), Kind: KindStart}} {
		b := r.Encode()
		again, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Users) > 1 {
			r.Users[1].Devices = []Recipient{}
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Error(diff)
		}
		if bytes.Equal(b, r.Encode()) {
			t.Error("two records with the same content have the same hash: whoever guesses it can tell")
		}
	}
	good := string(decision(1).Encode())
	for name, bad := range map[string]string{
		"empty": "", "no object": "[]", "a member that nobody knows": strings.Replace(good, `"at"`, `"x":1,"at"`, 1), "something behind it": good + "{}",
		"no salt": strings.Replace(good, `"salt":"`, `"salt":"A`, 1), "no kind": strings.Replace(good, `"room_key"`, `""`, 1),
		"no outcome": strings.Replace(good, `"o":"given",`, "", 1), "another outcome": strings.Replace(good, `"given"`, `"maybe"`, 1), "cut": good[:len(good)-1],
	} {
		if _, err := Decode([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckpoints(t *testing.T) {
	t.Parallel()
	s := signer(t)
	var file strings.Builder
	var want []Checkpoint
	m := logOf(0)
	for i := range 3 {
		m.add(decision(i))
		file.WriteString(checkpointOf(t, m.head.Tree))
		want = append(want, Checkpoint{m.head.Size, m.head.Root()})
	}
	for _, text := range []string{file.String(), strings.TrimSuffix(file.String(), "\n"), "\n" + strings.ReplaceAll(file.String(), "\ne2ee", "\n\ne2ee")} {
		if got, err := s.ReadAll([]byte(text)); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%v, %v", got, err)
		}
	}
	one := checkpointOf(t, m.head.Tree)
	// Others check it with the public key alone.
	v, err := note.NewVerifier(s.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open([]byte(one), note.VerifierList(v)); err != nil {
		t.Error(err)
	}
	other, err := NewSigner("e2ee-proxy-audit-1", [32]byte{8})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Write(want[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "another size": strings.Replace(one, "\n3\n", "\n4\n", 1), "no signature": strings.Split(one, "\n\n")[0] + "\n",
		"of another log": foreign, "the second of two is none": file.String() + "hello\n",
	} {
		if got, err := s.ReadAll([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	admin := &Record{At: when(9), Kind: KindOverride, Account: "@account1:x", Note: "trusted", Users: []User{{ID: "@carol:x"}}}
	write := func(format string, f Filter) string {
		var out strings.Builder
		w, err := NewLineWriter(format, &out)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range []*Record{decision(0), decision(1), decision(2), admin} {
			if !f.Wants(r) {
				continue
			}
			for _, l := range f.Lines(int64(i), r) {
				if err := w.Write(&l); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for name, tc := range map[string]struct {
		f     Filter
		lines int
	}{
		"everything": {Filter{}, 7}, "of a room": {Filter{Room: "!room1:x"}, 2}, "of an account": {Filter{User: "@account1:x"}, 3},
		"of a recipient": {Filter{User: "@bob:x"}, 6}, "of nobody": {Filter{User: "@eve:x"}, 0}, "about a user": {Filter{User: "@carol:x"}, 1}, "since": {Filter{From: when(2)}, 3}, "until": {Filter{To: when(2)}, 4},
	} {
		if got := strings.Count(write("jsonl", tc.f), "\n"); got != tc.lines {
			t.Errorf("%s: %d lines, want %d", name, got, tc.lines)
		}
		if got := strings.Count(write("csv", tc.f), "\n"); got != tc.lines+1 {
			t.Errorf("%s: %d lines of CSV, want %d", name, got, tc.lines+1)
		}
	}
	want := `{"record":1,"time":"2027-01-15T08:00:01.000000Z","kind":"room_key","account":"@account1:x","device":"OWN","device_key":"own key","room":"!room1:x",` +
		`"session":"` + HashSession("1") + `","index":1,"recipient":"@bob:x","recipient_device":"PHONE","ed25519":"ed","curve25519":"curve","outcome":"given",` +
		`"rule":"signed","pin":"verified","master_key":"master","self_signing_key":"self","policy":"p","record_recipients":2}`
	if got, _, _ := strings.Cut(write("jsonl", Filter{Room: "!room1:x"}), "\n"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if _, err := NewLineWriter("xml", nil); err == nil {
		t.Error("xml is a format")
	}
}

func TestReaders(t *testing.T) {
	t.Parallel()
	x := ReadersOf("!room0:x")
	late := decision(4)
	late.Users[0].Devices[0].Outcome, late.Users[0].Devices[0].Code = Withheld, "m.unverified"
	history := &Record{At: when(6), Kind: KindHistory, Room: "!room0:x", Account: "@account0:x", Users: []User{{ID: "@carol:x", Devices: []Recipient{{Device: "C", Ed25519: "edC", Outcome: Given}}}}}
	for _, r := range []*Record{decision(0), decision(1), decision(2), late, history, {At: when(7), Kind: KindOverride, Room: "!room0:x"}} {
		x.Add(r)
	}
	want := []Reader{
		{User: "@account0:x", Device: "OWN", Ed25519: "own key", Since: when(0), Last: when(0), Keys: 1, How: []Kind{KindSender}},
		{User: "@account1:x", Device: "OWN", Ed25519: "own key", Since: when(4), Last: when(4), Keys: 1, How: []Kind{KindSender}},
		{User: "@account2:x", Device: "OWN", Ed25519: "own key", Since: when(2), Last: when(2), Keys: 1, How: []Kind{KindSender}},
		{User: "@bob:x", Device: "PHONE", Ed25519: "ed", Since: when(0), Last: when(2), Keys: 2, How: []Kind{KindRoomKey}, RefusedSince: when(4)},
		{User: "@carol:x", Device: "C", Ed25519: "edC", Since: when(6), Last: when(6), Keys: 1, How: []Kind{KindHistory}},
	}
	if diff := cmp.Diff(want, x.List()); diff != "" {
		t.Error(diff)
	}
}

func TestVersionNamesAPolicy(t *testing.T) {
	t.Parallel()
	if a, b := Version("send enforce"), Version("send warn"); a == b || len(a) != 12 || a != "NEklCltsFz_c" {
		t.Error(a, b)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(decision(1).Encode())
	f.Add([]byte(`{"salt":"AAAAAAAAAAAAAAAAAAAAAA","at":0,"kind":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(r.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzReadCheckpoints(f *testing.F) {
	s, err := NewSigner("log", [32]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	c := Checkpoint{5, Hash{1, 2}}
	text, err := s.Write(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(text))
	f.Add([]byte(text + text))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := s.ReadAll(b)
		if err != nil {
			return
		}
		for _, got := range all {
			if got != c {
				t.Fatalf("%q was taken for a checkpoint", b)
			}
		}
	})
}

// FuzzTamper: whatever byte is changed of whatever record or hash, it is found.
func FuzzTamper(f *testing.F) {
	f.Add(uint16(3), uint16(40), byte(1), false)
	f.Add(uint16(30), uint16(4), byte(200), true)
	f.Fuzz(func(t *testing.T, which, at uint16, flip byte, hash bool) {
		if flip == 0 {
			return
		}
		m := logOf(23)
		if hash {
			m.hashes[int(which)%len(m.hashes)].Hash[at%HashSize] ^= flip
		} else {
			one := &m.records[int(which)%len(m.records)]
			one.Data[int(at)%len(one.Data)] ^= flip
		}
		if found(t, m) == nil {
			t.Fatal("nobody has noticed")
		}
	})
}

func BenchmarkRecordOf1000Devices(b *testing.B) {
	r := decision(1)
	for i := range 1000 {
		r.Users = append(r.Users, User{ID: "@somebody" + strings.Repeat("x", i%7) + ":example.org", Pin: "pinned", Master: strings.Repeat("m", 43), SelfSigning: strings.Repeat("s", 43), Devices: []Recipient{
			{"ABCDEFGHIJ", strings.Repeat("e", 43), strings.Repeat("c", 43), Given, "", "signed"},
		}})
	}
	b.ReportAllocs()
	var raw []byte
	for b.Loop() {
		raw = r.Encode()
		LeafOf(raw)
	}
	b.ReportMetric(float64(len(raw)), "bytes/record")
}

// Attack: somebody gives their device an ID that a spreadsheet computes. In the export for
// spreadsheets it is text; the other one has it as it is.
func TestFormulaInADeviceID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{`=1+1`, `+1`, `-1`, "\t=1", "\r=1"} {
		var out bytes.Buffer
		w, err := NewLineWriter("csv", &out)
		if err == nil {
			err = errors.Join(w.Write(&Line{RecipientDevice: id}), w.Flush())
		}
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(&out).ReadAll()
		if err != nil || rows[1][11] != "'"+id {
			t.Errorf("%q is %q, %v", id, rows, err)
		}
	}
}
