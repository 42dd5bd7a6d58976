package moves

import (
	"testing"
	"time"
)

// Something is there for a client again and again. The first moves are made at once, then one a
// second, and none from a token from which one is on its way.
func TestMovesAreApart(t *testing.T) {
	t.Parallel()
	var s State
	now := time.Unix(1000, 0)
	made := 0
	for step := range 100 { // ten seconds
		at := now.Add(time.Duration(step) * 100 * time.Millisecond)
		from := string(rune('a' + step))
		if s.Begin(from, at) == nil {
			made++
			if s.In(from, at) < Takes || s.Begin(from, at) == nil {
				t.Error("another is made from the same token")
			}
			s.Came()
		}
	}
	if made < 18 || made > 20 {
		t.Errorf("%d moves in ten seconds", made)
	}
}

// The homeserver moves no token. Moves get rarer, and are as frequent as before once one was seen.
func TestMovesThatFailGetRarer(t *testing.T) {
	t.Parallel()
	var s State
	now := time.Unix(1000, 0)
	var last time.Duration
	for range 5 {
		if err := s.Begin("a", now); err != nil {
			t.Fatal(err)
		}
		s.Failed(ErrNot, now)
		wait := s.In("a", now)
		if wait <= last || wait < 3*time.Second {
			t.Errorf("after %v it waits %v", last, wait)
		}
		last, now = wait, now.Add(wait)
	}
	if err := s.Begin("a", now); err != nil {
		t.Fatal(err)
	}
	s.Came()
	if wait := s.In("a", now); wait > 0 {
		t.Errorf("after one was seen it waits %v", wait)
	}
}

// A token that was given is known, until some others were.
func TestTokensThatWereTold(t *testing.T) {
	t.Parallel()
	var s State
	for _, token := range []string{"a", "b", "", "c"} {
		if s.Tell(token) || !s.Tell(token) || !s.Told(token) {
			t.Errorf("%q is not known as it should be", token)
		}
	}
	if !s.Told("a") || s.Told("d") {
		t.Error("what was told is forgotten, or made up")
	}
}
