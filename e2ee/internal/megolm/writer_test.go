package megolm

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/olm"
)

func newWriter(tb testing.TB, s *session.MegolmOutboundSession) Writer {
	tb.Helper()
	w, err := NewWriter(s)
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

// Whatever the text, and wherever the ratchet: the same bytes, and the same ratchet after them.
func TestWriterWritesWhatGoolmWrites(t *testing.T) {
	t.Parallel()
	random := rand.NewChaCha8([32]byte{1})
	for _, start := range []uint32{0, 127, 250, 16_380, 65_530, 1<<24 - 3, math.MaxUint32 - 3} {
		theirs := newOutbound(t)
		theirs.Ratchet.Counter = start
		ours := *theirs
		w := newWriter(t, &ours)
		for _, length := range []int{1, 15, 16, 17, 31, 32, 100, 127, 128, 1000, 65_000} {
			text := make([]byte, length)
			_, _ = random.Read(text)
			want, err := theirs.Encrypt(bytes.Clone(text))
			if err != nil {
				t.Fatal(err)
			}
			before := bytes.Clone(text)
			got, err := w.Encrypt(&ours, text)
			switch {
			case err != nil:
				t.Fatal(err)
			case !bytes.Equal(got, want):
				t.Fatalf("%d bytes at %d: %q, but goolm writes %q", length, start, got, want)
			case ours.Ratchet != theirs.Ratchet:
				t.Fatalf("%d bytes at %d: the ratchet is at %d, goolm's at %d", length, start, ours.Ratchet.Counter, theirs.Ratchet.Counter)
			case !bytes.Equal(text, before):
				t.Fatal("the text was changed")
			}
		}
	}
}

func TestWriterRefusesAnEmptyText(t *testing.T) {
	t.Parallel()
	s := newOutbound(t)
	w := newWriter(t, s)
	if out, err := w.Encrypt(s, nil); !errors.Is(err, olm.ErrEmptyInput) || out != nil || s.Ratchet.Counter != 0 {
		t.Errorf("%q, %v, at %d", out, err, s.Ratchet.Counter)
	}
}

// Attack vector: somebody who can change a stored session, but not read it, puts another public key
// beside the private one. Two signatures of the same message that name different public keys
// are two equations with one unknown: the private key.
//
// Expected: nothing is signed, whether the session is changed before it is loaded or after.
func TestWriterSignsForItsOwnPublicKeyOnly(t *testing.T) {
	t.Parallel()
	s := newOutbound(t)
	w := newWriter(t, s)
	other := newOutbound(t)
	wrong := map[string]*session.MegolmOutboundSession{"another public key": {}, "none": {}, "another private key": {}, "a short private key": {}, "no private key": {}}
	for _, x := range wrong {
		*x = *s
	}
	wrong["another public key"].SigningKey.PublicKey = other.SigningKey.PublicKey
	wrong["none"].SigningKey.PublicKey = nil
	wrong["another private key"].SigningKey.PrivateKey = other.SigningKey.PrivateKey
	wrong["a short private key"].SigningKey.PrivateKey = slices.Clone(s.SigningKey.PrivateKey[:63])
	wrong["no private key"].SigningKey.PrivateKey = nil
	for name, x := range wrong {
		if _, err := NewWriter(x); !errors.Is(err, errSigningKey) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "another private key" { // a writer of one session has no business with another
			continue
		}
		if out, err := w.Encrypt(x, []byte("text")); !errors.Is(err, errSigningKey) || out != nil || x.Ratchet.Counter != 0 {
			t.Errorf("%s, after: %q, %v", name, out, err)
		}
	}
	if out, err := new(Writer).Encrypt(s, []byte("text")); !errors.Is(err, errSigningKey) || out != nil {
		t.Errorf("the zero value: %q, %v", out, err)
	}
}

func BenchmarkWriter(b *testing.B) {
	text := bytes.Repeat([]byte("x"), 200)
	s := newOutbound(b)
	w := newWriter(b, s)
	b.Run("reference=goolm", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Encrypt(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("writer", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.Encrypt(s, text); err != nil {
				b.Fatal(err)
			}
		}
	})
}
