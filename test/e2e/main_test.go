package e2e

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"e2ee-proxy/internal/tesths"
)

// The homeservers of this test binary.
var shared tesths.Shared

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// onEach runs a test against both homeservers.
func onEach(t *testing.T, test func(t *testing.T, hs *tesths.Homeserver)) {
	t.Helper()
	t.Run("dendrite", func(t *testing.T) { test(t, shared.Dendrite(t)) })
	t.Run("synapse", func(t *testing.T) { test(t, shared.Synapse(t)) })
}

var accounts atomic.Int64

// newAccount registers a user that no other test has.
func newAccount(t *testing.T, hs *tesths.Homeserver, name string) tesths.Account {
	t.Helper()
	user := fmt.Sprintf("%s-%d", name, accounts.Add(1))
	a, err := hs.Register(t.Context(), user, "password of "+user)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
