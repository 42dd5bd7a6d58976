package e2e

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproc"
)

// The homeservers of this test binary.
var shared tesths.Shared

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for processes more than they compute.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(shared.Run(m))
}

// onEach runs a test against both homeservers, side by side.
func onEach(t *testing.T, test func(t *testing.T, hs *tesths.Homeserver)) {
	t.Helper()
	for name, server := range map[string]func(testproc.TB) *tesths.Homeserver{"dendrite": shared.Dendrite, "synapse": shared.Synapse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, server(t))
		})
	}
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
