package olm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/internal/strictjson"
)

// unpickled decodes a pickle with goolm.
func unpickled(t *testing.T, pickle []byte) *session.OlmSession {
	t.Helper()
	s := session.NewOlmSession()
	if err := s.UnpickleLibOlm(pickle); err != nil {
		t.Fatal(err)
	}
	return s
}

// A long talk in which each side sends at random, messages are read late, out of order or
// never, and texts have every length. Whatever is encrypted is byte for byte what goolm makes
// of the same session, and leaves the same session; only a new ratchet key is drawn at
// random, and then goolm reads it.
func TestLettersAreThoseOfGoolm(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, `@b"ob:x`, "BOB")
	bob.begins(alice, alice.seal(bob, "first", bob.oneTimeKey()), "first")
	same, drawn := 0, 0
	type sent struct {
		content json.RawMessage
		text    string
	}
	waiting := map[*end][]sent{}
	for i := range 600 {
		from, to := alice, bob
		if random.IntN(2) == 0 {
			from, to = bob, alice
		}
		mine := from.all.byKey[to.own.Curve25519][0]
		if random.IntN(3) > 0 {
			text := strings.Repeat("x", random.IntN(300)) + fmt.Sprint(i)
			before := bytes.Clone(mine.pickled().Reveal())
			_, began := positionOf(before)
			content := from.seal(to, text, "")
			if began {
				same++
				reference := unpickled(t, before)
				frame := NewFrame(from.own, from.dev.UserID, nil, "m.dummy", strictjson.Object{{Name: "text", Value: strictjson.Quote(text)}}.Encode())
				want, err := frame.Seal(reference, to.dev)
				if err != nil {
					t.Fatal(err)
				}
				if string(content) != string(want) {
					t.Fatalf("message %d is\n%s\ngoolm's is\n%s", i, content, want)
				}
				if !bytes.Equal(mine.pickled().Reveal(), reference.PickleLibOlm()) {
					t.Fatalf("after message %d the session is another", i)
				}
			} else {
				drawn++
			}
			waiting[to] = append(waiting[to], sent{content, text})
		}
		if queue := waiting[to]; len(queue) > 0 && random.IntN(3) > 0 {
			n := random.IntN(min(len(queue), 4))
			to.reads(from, queue[n].content, queue[n].text)
			waiting[to] = append(queue[:n:n], queue[n+1:]...)
		}
	}
	if same < 100 || drawn < 50 {
		t.Errorf("%d messages were compared, %d began a chain", same, drawn)
	}
}

// A message key is used once: two letters of a session have different ones, also if the
// first was never written.
func TestALetterTakesItsKeyAway(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB")
	alice.seal(bob, "one", bob.oneTimeKey())
	pickle := alice.all.byKey[bob.own.Curve25519][0].pickled().Reveal()
	kept := bytes.Clone(pickle)
	seen := make(map[[keySize]byte]bool)
	for i := range uint32(10) {
		l, next, err := newLetter(pickle, bob.dev)
		if err != nil || l.index != i+1 || seen[l.key] {
			t.Fatalf("letter %d has the index %d, its key was used: %v, %v", i, l.index, seen[l.key], err)
		}
		if i == 0 && !bytes.Equal(pickle, kept) {
			t.Error("the pickle that was given was changed")
		}
		seen[l.key], pickle = true, next
	}
}

// What is no session as goolm stores it is refused, or decoded by goolm, and never read
// beyond its end.
func TestIrregularPickles(t *testing.T) {
	t.Parallel()
	alice, bob := newEnd(t, "@alice:x", "ALICE"), newEnd(t, "@bob:x", "BOB")
	bob.begins(alice, alice.seal(bob, "one", bob.oneTimeKey()), "one")
	for _, e := range []*end{alice, bob} {
		for _, list := range e.all.byKey {
			good := list[0].pickled().Reveal()
			if !isRegular(good) {
				t.Fatal("a session of goolm's is not regular")
			}
			for n := range good {
				if isRegular(good[:n]) {
					t.Errorf("the first %d bytes are regular", n)
				}
				if _, _, err := newLetter(good[:n], e.dev); err == nil {
					t.Errorf("the first %d bytes encrypt", n)
				}
			}
			if isRegular(append(bytes.Clone(good), 0)) {
				t.Error("one with a byte too many is regular")
			}
		}
	}
}

// FuzzRegular: what is regular, goolm decodes, and encodes as the same.
func FuzzRegular(f *testing.F) {
	bare := make([]byte, pickleChains+12)
	bare[3] = pickleVersion
	f.Add(bare)
	f.Add(append(append(append([]byte{}, bare[:pickleChains]...), 0, 0, 0, 1), make([]byte, chainEnd-chainPublic+8)...))
	f.Fuzz(func(t *testing.T, pickle []byte) {
		if !isRegular(pickle) {
			return
		}
		s := session.NewOlmSession()
		if err := s.UnpickleLibOlm(pickle); err != nil {
			t.Fatalf("regular, but %v", err)
		}
		if !bytes.Equal(s.PickleLibOlm(), pickle) {
			t.Fatal("it is encoded as another")
		}
	})
}
