package megolm

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/aessha2"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/olm"

	"e2ee-proxy/internal/signkey"
)

// pair are goolm's session and our reader of the same room key.
type pair struct {
	theirs *session.MegolmInboundSession
	ours   Reader
	signed signkey.Verifier
}

// decrypt does what is done with a message, one after the other.
func (p *pair) decrypt(message string) (plain []byte, index uint32, err error) {
	m, err := ParseMessage(message)
	if err != nil {
		return nil, 0, err
	}
	if !signkey.VerifyAll([]signkey.Check{m.Check(p.signed)})[0] {
		return nil, 0, errMessage
	}
	return p.ours.Open(&m)
}

func newPair(tb testing.TB, out *session.MegolmOutboundSession, table bool) *pair {
	tb.Helper()
	key, err := out.SessionSharingMessage()
	if err != nil {
		tb.Fatal(err)
	}
	in, err := session.NewMegolmInboundSession(key)
	if err != nil {
		tb.Fatal(err)
	}
	signed, err := signkey.NewKey(in.SigningKey)
	if err != nil {
		tb.Fatal(err)
	}
	p := &pair{theirs: in, ours: NewReader(in), signed: signed}
	if table {
		p.signed = signkey.NewBase().NewTable(signed)
	}
	return p
}

// same lets both decrypt a message, and fails unless they agree. It reports whether they could.
func (p *pair) same(tb testing.TB, message string) bool {
	tb.Helper()
	want, wantIndex, wantErr := p.theirs.Decrypt([]byte(message))
	got, index, err := p.decrypt(message)
	switch {
	case (err == nil) != (wantErr == nil), errors.Is(err, olm.ErrUnknownMessageIndex) != errors.Is(wantErr, olm.ErrUnknownMessageIndex):
		tb.Fatalf("%q: %v, but goolm says %v", message, err, wantErr)
	case err == nil && (!bytes.Equal(got, want) || uint(index) != wantIndex):
		tb.Fatalf("%q: %q at %d, but goolm says %q at %d", message, got, index, want, wantIndex)
	case p.ours.Latest != p.theirs.Ratchet || p.ours.First != p.theirs.InitialRatchet:
		tb.Fatalf("%q: the ratchet is at %d, goolm's at %d", message, p.ours.Latest.Counter, p.theirs.Ratchet.Counter)
	}
	return err == nil
}

// signedMessage makes a message of any content, with an authentication code that is right
// unless it is broken, and the session's signature.
func signedMessage(tb testing.TB, out *session.MegolmOutboundSession, content []byte, broken bool) string {
	tb.Helper()
	keys, err := aessha2.NewAESSHA2(out.Ratchet.Data[:], []byte("MEGOLM_KEYS"))
	if err != nil {
		tb.Fatal(err)
	}
	mac, err := keys.MAC(content)
	if err != nil {
		tb.Fatal(err)
	}
	if broken {
		mac[7] ^= 1
	}
	signed := append(bytes.Clone(content), mac[:8]...)
	signature, err := out.SigningKey.Sign(signed)
	if err != nil {
		tb.Fatal(err)
	}
	return base64.RawStdEncoding.EncodeToString(append(signed, signature...))
}

func newOutbound(tb testing.TB) *session.MegolmOutboundSession {
	tb.Helper()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// In order, backwards and with gaps, over the places where several parts of the ratchet change.
func TestReaderReadsWhatGoolmReads(t *testing.T) {
	t.Parallel()
	for _, table := range []bool{false, true} {
		for _, start := range []uint32{0, 250, 65_530, 1<<24 - 3, math.MaxUint32 - 3} {
			out := newOutbound(t)
			out.Ratchet.Counter = start
			p := newPair(t, out, table)
			var messages []string
			for i := range 20 {
				message, err := out.Encrypt(fmt.Appendf(nil, "text %*d", i*3, i))
				if err != nil {
					t.Fatal(err)
				}
				messages = append(messages, string(message))
			}
			for _, i := range []int{3, 4, 5, 12, 5, 0, 19, 18, 3, 19, 6, 7} {
				if !p.same(t, messages[i]) && start < math.MaxUint32-3 {
					t.Errorf("message %d after %d is not read", i, start)
				}
			}
		}
	}
}

// A session that jumps over many indices.
func TestReaderJumps(t *testing.T) {
	t.Parallel()
	out := newOutbound(t)
	p := newPair(t, out, false)
	for _, to := range []uint32{10_000, 10_001, 1 << 20, 1<<24 + 1, 1 << 30} {
		moveTo(&out.Ratchet, to)
		message, err := out.Encrypt([]byte("far"))
		if err != nil {
			t.Fatal(err)
		}
		if !p.same(t, string(message)) {
			t.Errorf("a message at %d is not read", to)
		}
	}
}

// field makes a part of a message.
func field(tag uint64, value []byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, tag), uint64(len(value))), value...)
}

func number(tag, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, tag), value)
}

// What somebody who has the key may sign, whatever it is: it is read as goolm reads it.
func TestReaderOfMessagesOutOfTheOrdinary(t *testing.T) {
	t.Parallel()
	out := newOutbound(t)
	first := newPair(t, out, false)
	early, err := out.Encrypt([]byte("early"))
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, out, true) // begins after it
	at := uint64(out.Ratchet.Counter)
	keys, err := aessha2.NewAESSHA2(out.Ratchet.Data[:], []byte("MEGOLM_KEYS"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := keys.Encrypt([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	cat := func(parts ...[]byte) []byte { return append([]byte{3}, bytes.Join(parts, nil)...) }
	overflow := bytes.Repeat([]byte{0xff}, 11)
	for name, tc := range map[string]struct {
		content      []byte
		broken, want bool
	}{
		"ordinary":                {cat(number(8, at), field(0x12, sealed)), false, true},
		"parts the other way":     {cat(field(0x12, sealed), number(8, at)), false, true},
		"unknown parts":           {cat(number(0x20, 1), number(8, at), field(0x22, []byte("x")), field(0x12, sealed), field(0x1a, nil)), false, true},
		"an index twice":          {cat(number(8, at+7), number(8, at), field(0x12, sealed)), false, true},
		"two texts":               {cat(number(8, at), field(0x12, []byte("x")), field(0x12, sealed)), false, true},
		"a long number":           {cat([]byte{8, 0x80 | byte(at), 0x80, 0}, field(0x12, sealed)), false, true},
		"wrong code":              {cat(number(8, at), field(0x12, sealed)), true, false},
		"another index":           {cat(number(8, at+1), field(0x12, sealed)), false, false},
		"before the key":          {cat(number(8, at-1), field(0x12, sealed)), false, false},
		"no index":                {cat(field(0x12, sealed)), false, false},
		"no text":                 {cat(number(8, at)), false, false},
		"an empty text":           {cat(number(8, at), field(0x12, nil)), false, false},
		"half a block":            {cat(number(8, at), field(0x12, sealed[:8])), false, false},
		"no padding":              {cat(number(8, at), field(0x12, append(bytes.Clone(sealed), sealed...))), false, false},
		"a large index":           {cat(number(8, 1<<32), field(0x12, sealed)), false, false},
		"an endless number":       {cat(overflow, field(0x12, sealed)), false, false},
		"another kind":            {cat(number(8, at), number(9, 1), field(0x12, sealed)), false, false},
		"a text that is cut off":  {cat(number(8, at), field(0x12, sealed)[:10]), false, false},
		"a tag that is cut off":   {cat(number(8, at), field(0x12, sealed), []byte{0x80}), false, false},
		"a part without a length": {cat(number(8, at), field(0x12, sealed), []byte{0x12}), false, false},
		"another version":         {append([]byte{4}, cat(number(8, at), field(0x12, sealed))[1:]...), false, false},
		"nothing":                 {nil, false, false},
	} {
		if got := p.same(t, signedMessage(t, out, tc.content, tc.broken)); got != tc.want {
			t.Errorf("%s: it is read: %v", name, got)
		}
	}
	if p.same(t, string(early)) || !first.same(t, string(early)) {
		t.Error("a message of before the key is read, or not by who has it")
	}
	if _, _, err := p.decrypt(string(early)); !errors.Is(err, olm.ErrUnknownMessageIndex) {
		t.Errorf("of a message before the key: %v", err)
	}
}

// Whatever is changed in a message, and wherever, nothing is read.
func TestReaderOfChangedMessages(t *testing.T) {
	t.Parallel()
	out := newOutbound(t)
	p := newPair(t, out, true)
	message, err := out.Encrypt([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range message {
		for _, c := range []byte("Aa/0=!\n") {
			changed := bytes.Clone(message)
			changed[i] = c
			if p.same(t, string(changed)) && !bytes.Equal(decoded(changed), decoded(message)) {
				t.Errorf("%q instead of %q at %d is read", c, message[i], i)
			}
		}
		p.same(t, string(message[:i]))
	}
	p.signed = nil
	if _, _, err := p.decrypt(string(message)); err == nil {
		t.Error("a message is read without a key")
	}
}

func decoded(message []byte) []byte {
	raw, err := base64.RawStdEncoding.DecodeString(string(message))
	if err != nil {
		return nil
	}
	return raw
}

func FuzzReader(f *testing.F) {
	out := newOutbound(f)
	f.Add([]byte{3, 8, 0, 0x12, 0}, false, uint32(0))
	f.Add([]byte{3, 8, 5, 0x12, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6}, true, uint32(300))
	f.Fuzz(func(t *testing.T, content []byte, broken bool, start uint32) {
		own := *out
		own.Ratchet.Counter = start
		newPair(t, &own, false).same(t, signedMessage(t, &own, content, broken))
	})
}
