package ownidentity

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/internal/secret"
)

// What is forgotten is overwritten, not just dropped: after its use, by the next one, and
// after a minute when nobody had a use for it. What comes later is another password.
func TestPasswordIsOverwritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var held loginPassword
		gone := func(text secret.Bytes) bool {
			held.mu.Lock() // its timer overwrites it
			defer held.mu.Unlock()
			return bytes.Equal(text, make([]byte, len(text)))
		}
		kept := func() secret.Bytes {
			held.mu.Lock()
			defer held.mu.Unlock()
			return held.text
		}
		given := secret.Bytes("the password")
		held.keep(given, "DEVICE")
		given.Wipe() // the caller's own
		first := kept()
		if text, _ := held.current(); text.Reveal() != "the password" {
			t.Fatalf("it has %q", text.Reveal())
		}
		held.keep(secret.Bytes("another one"), "DEVICE")
		if !gone(first) {
			t.Error("the first is there after the second came")
		}
		second := kept()
		_, which := held.current()
		held.forgetGiven(which - 1)
		if gone(second) {
			t.Error("whoever used the first forgot the second")
		}
		held.forgetGiven(which)
		if text, _ := held.current(); !gone(second) || !text.IsZero() {
			t.Error("it is there after its use")
		}

		held.keep(secret.Bytes("of a login"), "DEVICE")
		ended := kept()
		held.forgetOf("ANOTHER")
		if gone(ended) {
			t.Error("the logout of another device took it")
		}
		held.forgetOf("DEVICE")
		if !gone(ended) {
			t.Error("it is there after the logout")
		}

		held.keep(secret.Bytes("nobody needs it"), "DEVICE")
		third := kept()
		time.Sleep(30 * time.Second)
		held.keep(secret.Bytes("the last"), "DEVICE")
		last := kept()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !gone(third) || gone(last) {
			t.Error("the minute of the third ended the last")
		}
		time.Sleep(30*time.Second - time.Millisecond)
		synctest.Wait()
		if gone(last) {
			t.Error("it is gone before its minute is over")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if text, _ := held.current(); !gone(last) || !text.IsZero() {
			t.Error("it is there after a minute")
		}
	})
}
