package locks_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee/internal/locks"
)

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
