package seal

import (
	"bytes"
	"errors"
	"testing"
)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey(NewID(), bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func place() Place {
	return Place{Database: "db", Table: "t", Account: "@a:hs", Column: "c", Row: []string{"1", "s"}}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for _, n := range []int{0, 1, 31, 4096} {
		plain := bytes.Repeat([]byte("x"), n)
		sealed := k.Seal(plain, place())
		if len(sealed) != n+Overhead {
			t.Errorf("%d bytes: sealed length %d, want %d", n, len(sealed), n+Overhead)
		}
		got, err := k.Open(sealed, place())
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: got %q, %v", n, got, err)
		}
	}
}

func TestSealIsRandomised(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	if bytes.Equal(k.Seal([]byte("same"), place()), k.Seal([]byte("same"), place())) {
		t.Error("the same clear text was sealed to the same bytes twice")
	}
}

func TestEveryPartOfThePlaceCounts(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	sealed := k.Seal([]byte("secret"), place())
	for name, change := range map[string]func(*Place){
		"database":      func(p *Place) { p.Database = "other" },
		"table":         func(p *Place) { p.Table = "other" },
		"account":       func(p *Place) { p.Account = "@b:hs" },
		"column":        func(p *Place) { p.Column = "other" },
		"row":           func(p *Place) { p.Row = []string{"2", "s"} },
		"row, shifted":  func(p *Place) { p.Row = []string{"1s", ""} },
		"row, shorter":  func(p *Place) { p.Row = p.Row[:1] },
		"row, longer":   func(p *Place) { p.Row = append(p.Row, "") },
		"parts shifted": func(p *Place) { p.Table, p.Account = "t@a:hs", "" },
	} {
		p := place()
		change(&p)
		if _, err := k.Open(sealed, p); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
	}
}

func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	sealed := k.Seal([]byte("secret"), place())
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := k.Open(changed, place()); err == nil {
			t.Errorf("byte %d changed and the value still opened", i)
		}
	}
	for i := range sealed {
		if _, err := k.Open(sealed[:i], place()); err == nil {
			t.Errorf("cut to %d bytes and the value still opened", i)
		}
	}
}

func TestOtherKey(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	sealed := k.Seal([]byte("secret"), place())
	if _, err := newKey(t).Open(sealed, place()); !errors.Is(err, ErrOtherKey) {
		t.Errorf("other ID: got %v, want ErrOtherKey", err)
	}
	sameID, err := NewKey(k.ID(), bytes.Repeat([]byte{8}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sameID.Open(sealed, place()); !errors.Is(err, ErrRefused) {
		t.Errorf("same ID, other key: got %v, want ErrRefused", err)
	}
}

func TestNewKeyWantsTheRightSize(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := NewKey(ID{}, make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := newKey(f)
	f.Add([]byte(nil))
	f.Add([]byte{format})
	f.Add(make([]byte, Overhead))
	f.Add(k.Seal(nil, place()))
	f.Add(k.Seal([]byte("secret"), place()))
	f.Add(k.Seal([]byte("secret"), Place{}))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		plain, err := k.Open(sealed, Place{Table: "never used for sealing"})
		if err == nil {
			t.Fatalf("opened %d bytes that were never sealed for this place", len(sealed))
		}
		if plain != nil {
			t.Fatal("clear text returned together with an error")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k, plain := newKey(b), make([]byte, 512)
	for b.Loop() {
		k.Seal(plain, place())
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b)
	sealed := k.Seal(make([]byte, 512), place())
	for b.Loop() {
		if _, err := k.Open(sealed, place()); err != nil {
			b.Fatal(err)
		}
	}
}
