package roomkeys

import (
	"encoding/base64"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"
)

// said returns a session that has been read up to its end, and its messages.
func said(t *testing.T, n int) (*inboundSession, []string) {
	t.Helper()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	key, err := out.SessionSharingMessage()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.NewMegolmInboundSession(key)
	if err != nil {
		t.Fatal(err)
	}
	var ciphers []string
	for i := range n {
		cipher, err := out.Encrypt(fmt.Appendf(nil, "text %d", i))
		if err != nil {
			t.Fatal(err)
		}
		ciphers = append(ciphers, string(cipher))
	}
	s := &inboundSession{}
	s.sess = *in
	if _, _, err := s.sess.Decrypt([]byte(ciphers[n-1])); err != nil {
		t.Fatal(err)
	}
	return s, ciphers
}

// A page of history has messages that were read before, the newest first. Each cost as many
// steps of the ratchet as stand before it: they are decrypted in the order in which they were
// sent, with one step each, and what later messages need is kept as it is.
func TestPageOfHistoryCostsFewSteps(t *testing.T) {
	t.Parallel()
	const messages = 300
	one, ofOne := said(t, messages)
	two, ofTwo := said(t, messages)
	var events []*Event
	for i := messages - 1; i >= 200; i-- {
		events = append(events, &Event{session: one, Ciphertext: ofOne[i]}, &Event{session: two, Ciphertext: ofTwo[i]})
	}
	work := make(ratchets)
	var last *Event
	for _, ev := range byIndex(events) {
		if last != nil && last.session == ev.session && ev.hint != last.hint+1 {
			t.Fatalf("index %d comes after %d", ev.hint, last.hint)
		}
		plain, index, err := work.of(ev.session, ev.hint).Decrypt([]byte(ev.Ciphertext))
		if want := fmt.Sprint("text ", index); err != nil || string(plain) != want || uint32(index) != ev.hint {
			t.Fatalf("%q at %d, not %d: %v", plain, index, ev.hint, err)
		}
		if at := work[ev.session].Ratchet.Counter; at != ev.hint {
			t.Fatalf("the ratchet is at %d for index %d", at, ev.hint)
		}
		last = ev
	}
	work.keep()
	if one.sess.Ratchet.Counter != messages-1 || two.sess.Ratchet.Counter != messages-1 {
		t.Errorf("the ratchets are at %d and %d", one.sess.Ratchet.Counter, two.sess.Ratchet.Counter)
	}
}

// The index that a message claims is read without decrypting it, whatever else it is.
func TestClaimedIndex(t *testing.T) {
	t.Parallel()
	encode := func(raw ...byte) string { return base64.RawStdEncoding.EncodeToString(raw) }
	for ciphertext, want := range map[string]uint32{
		encode(3, 8, 5, 0x12, 0x10):                                  5,
		encode(3, 8, 0xac, 2, 0x12, 0x10):                            300,
		encode(3, 8, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x12):             1<<32 - 1,
		encode(3, 8, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x12):             0,
		encode(3, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff): 0,
		encode(2, 8, 5, 0x12):                                        0, encode(3, 0x12, 5, 8): 0, encode(3, 8): 0, "": 0, "?": 0, "Aw!!": 0,
	} {
		if got := claimedIndex(ciphertext); got != want {
			t.Errorf("%q: %d, want %d", ciphertext, got, want)
		}
	}
}
