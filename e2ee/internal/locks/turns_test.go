package locks_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee/internal/locks"
)

// One caller at a time has the turn of a key; who gives up leaves nothing behind, and other
// keys are not concerned.
func TestTurns(t *testing.T) {
	t.Parallel()
	var turns locks.Turns[string]
	give, err := turns.Take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.Take(gone, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second one has the turn, or another error: %v", err)
	}
	other, err := turns.Take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	if turns.Idle() {
		t.Error("the first one's turn is over")
	}
	waited := make(chan error, 1)
	go func() {
		give, err := turns.Take(t.Context(), "a")
		if err == nil {
			give()
		}
		waited <- err
	}()
	give()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if !turns.Idle() {
		t.Error("a turn is left")
	}
}

// Whoever takes and gives back is told, in order, by rank.
func TestOrderIsTold(t *testing.T) {
	t.Parallel()
	var told []string
	order := &locks.Order{
		Takes: func(r locks.Rank) { told = append(told, fmt.Sprint("takes ", r)) },
		Gives: func(r locks.Rank) { told = append(told, fmt.Sprint("gives ", r)) },
	}
	turns := locks.Turns[int]{Place: order.At(1)}
	mu := locks.Mutex{Place: order.At(2)}
	give, err := turns.Take(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	mu.Unlock() //nolint:staticcheck // what is looked at is that both are told
	give()
	if diff := cmp.Diff([]string{"takes 1", "takes 2", "gives 2", "gives 1"}, told); diff != "" {
		t.Error(diff)
	}
}
