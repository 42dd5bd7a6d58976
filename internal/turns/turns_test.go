package turns_test

import (
	"context"
	"errors"
	"testing"

	"e2ee-proxy/internal/turns"
)

// One caller at a time has the turn of a key; who gives up leaves nothing behind, and other
// keys are not concerned.
func TestTurns(t *testing.T) {
	t.Parallel()
	var all turns.Turns[string]
	give, err := all.Take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := all.Take(gone, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one has the turn, or another error: %v", err)
	}
	other, err := all.Take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	if all.Idle() {
		t.Error("the first one's turn is over")
	}
	waited := make(chan error, 1)
	go func() {
		give, err := all.Take(t.Context(), "a")
		if err == nil {
			give()
		}
		waited <- err
	}()
	give()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if !all.Idle() {
		t.Error("a turn is left")
	}
}
