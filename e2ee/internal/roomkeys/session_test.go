package roomkeys

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/internal/signkey"
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
	if s.key, err = signkey.NewKey(in.SigningKey); err != nil {
		t.Fatal(err)
	}
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
	cache, err := NewCache(1)
	if err != nil {
		t.Fatal(err)
	}
	by := cache.verifiersOf(events, time.Now())
	work := make(ratchets)
	var last *Event
	for _, ev := range byIndex(events) {
		if last != nil && last.session == ev.session && ev.hint != last.hint+1 {
			t.Fatalf("index %d comes after %d", ev.hint, last.hint)
		}
		message, err := megolm.ParseMessage(ev.Ciphertext)
		if err != nil || !signkey.VerifyAll([]signkey.Check{message.Check(by[ev.session])})[0] {
			t.Fatalf("index %d is not accepted: %v", ev.hint, err)
		}
		plain, index, err := work.of(ev.session, ev.hint).Open(&message)
		if want := fmt.Sprint("text ", index); err != nil || string(plain) != want || index != ev.hint {
			t.Fatalf("%q at %d, not %d: %v", plain, index, ev.hint, err)
		}
		if at := work[ev.session].Latest.Counter; at != ev.hint {
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

// A table is made for a batch in which it pays, and after some messages that came one by one; it
// goes when nobody uses it, and is not made again for each of them.
func TestTablesAreMadeWhereTheyPay(t *testing.T) {
	t.Parallel()
	s, ciphers := said(t, 2*tableForMany)
	events := make([]*Event, len(ciphers))
	for i, ciphertext := range ciphers {
		events[i] = &Event{session: s, Ciphertext: ciphertext}
	}
	cache, err := NewCache(1)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000, 0)
	hasTable := func(n int) bool {
		_, is := cache.verifiersOf(events[:n], now)[s].(*signkey.Table)
		return is
	}
	for i := range tableForMany {
		if got, want := hasTable(1), i == tableForMany-1; got != want {
			t.Errorf("message %d is checked with a table: %v", i, got)
		}
	}
	if !hasTable(1) {
		t.Error("the table is not used")
	}
	cache.ForgetUnused(now.Add(time.Second))
	if hasTable(1) || hasTable(tableForBatch-1) {
		t.Error("there is a table after it was dropped")
	}
	if !hasTable(tableForBatch) {
		t.Error("there is no table for a batch")
	}
	none := &inboundSession{}
	if by := cache.verifiersOf([]*Event{{session: none}, {}}, now); len(by) != 0 {
		t.Errorf("what has no key is checked by %v", by)
	}
}
