package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/cluster"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/store"
)

func TestRequestArrivesAsItWasTaken(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	resp, err := a.send(t.Context(), b.row)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := "GET /_matrix/client/v3/sync?since=s matrix.example.org 10.1.2.3:4 q-1 a"; err != nil || string(body) != want {
		t.Errorf("got %q, %v; want %q", body, err, want)
	}
	if diff := cmp.Diff([]http.Header{{"Authorization": {"Bearer alice"}}}, b.got); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "E2ee-Proxy-Cluster-") {
			t.Errorf("the answer has %s", name)
		}
	}
}

// What one replica no longer believes is told to each of the others.
func TestAllHearWhatIsDropped(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b, c := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil), mustStart(t, l, "c", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// It knows the others by a look at the database, which may be to come.
	if err := testproc.Await(ctx, func(ctx context.Context) error {
		a.TellDropped(ctx, "tokens", "abc")
		for who, r := range map[string]*replica{"b": b, "c": c} {
			if all := slices.Compact(r.all()); !slices.Equal(all, []string{"Dropped tokens abc "}) {
				return fmt.Errorf("%s: %q", who, all)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if all := a.all(); len(all) != 0 {
		t.Errorf("told itself: %q", all)
	}
}

func TestCallsAreMadeWhereTheAccountIs(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	l.set(func() { l.owners["@alice:hs"], l.owners["@bob:hs"] = "b", "a" })
	ctx := cluster.WithRequest(t.Context(), "q-7", "")
	alice := interceptors.Identity{UserID: "@alice:hs", DeviceID: "A", Token: secret.NewString("token")}
	d := a.Node.Devices()
	for _, err := range []error{
		d.LoggedIn(ctx, alice, secret.Bytes("pass \x00\xff word")),
		d.Refreshed(ctx, alice),
		d.Forget(ctx, "@alice:hs", "B", "C"),
		d.Forget(ctx, "@alice:hs"),
		d.ForgetAll(ctx, "@alice:hs", "D"),
		d.ForgetAccount(ctx, "@alice:hs"),
		a.UnknownToken(ctx, alice, true),
		a.UnknownToken(ctx, alice, false),
		a.UnknownToken(ctx, interceptors.Identity{Token: secret.NewString("whose")}, false),
		d.ForgetAccount(ctx, "@bob:hs"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"LoggedIn @alice:hs A token pass \x00\xff word", "Refreshed @alice:hs A token", "Forget @alice:hs   B C", "ForgetAll @alice:hs   D",
		"ForgetAccount @alice:hs  ", "UnknownToken @alice:hs A token soft", "UnknownToken @alice:hs A token",
	}
	if diff := cmp.Diff(want, b.all()); diff != "" {
		t.Errorf("at the owner (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ForgetAccount @bob:hs  "}, a.all()); diff != "" {
		t.Errorf("here (-want +got):\n%s", diff)
	}
	for _, log := range []string{a.log.String(), b.log.String()} {
		for _, hidden := range []string{"A token", "pass", "@alice", goodSecret} {
			if strings.Contains(log, hidden) {
				t.Errorf("the log says %q:\n%s", hidden, log)
			}
		}
	}
	if n := strings.Count(b.log.String(), `"request_id":"q-7"`); n != 7 {
		t.Errorf("%d lines with the request's ID:\n%s", n, b.log)
	}
}

// A call looks again when the account moves, when its owner dies, and stays here when the request
// keeps the account already: asking for it would wait for the request itself.
func TestCallFindsAnAccountThatMoves(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	c := mustStart(t, l, "c", nil)
	d := a.Node.Devices()
	l.set(func() { l.owners["@alice:hs"] = "b" })
	if err := d.ForgetAll(t.Context(), "@alice:hs"); err != nil {
		t.Fatal(err)
	}
	l.set(func() { l.owners["@alice:hs"] = "c" }) // a still believes b
	if err := d.ForgetAll(t.Context(), "@alice:hs"); err != nil {
		t.Fatal(err)
	}
	c.stop()
	l.set(func() { delete(l.live, "c") })
	if err := d.ForgetAll(t.Context(), "@alice:hs"); err != nil {
		t.Fatal(err)
	}
	if len(a.all()) != 1 || len(b.all()) != 1 || len(c.all()) != 1 {
		t.Errorf("made %d, %d and %d times", len(a.all()), len(b.all()), len(c.all()))
	}
	l.set(func() { l.owners["@alice:hs"], a.view.ending = "a", true })
	if err := d.ForgetAll(cluster.WithRequest(t.Context(), "q", "@alice:hs"), "@alice:hs"); err != nil || len(a.all()) != 2 {
		t.Errorf("for a request that keeps the account: %v", err)
	}
}

func TestCallThatFailsIsAnError(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	l.set(func() { l.owners["@alice:hs"] = "b" })
	b.fail = errors.New("the disk is full")
	if err := a.Node.Devices().ForgetAccount(t.Context(), "@alice:hs"); err == nil || strings.Contains(err.Error(), "disk") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(b.log.String(), "the disk is full") {
		t.Errorf("the owner's log does not say why: %s", b.log)
	}
}

// A process that is ending takes no account; where one is that it does not have it asks the
// database.
func TestEndingProcessStillFindsAccounts(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	l.set(func() { l.owners["@alice:hs"], a.view.ending = "b", true })
	_, err := a.Enter(t.Context(), "@alice:hs")
	elsewhere, ok := errors.AsType[*store.ElsewhereError](err)
	if !ok || elsewhere.Replica.Name != b.name {
		t.Errorf("got %v", err)
	}
	if _, err := a.Enter(t.Context(), "@bob:hs"); !errors.Is(err, cluster.ErrUnsettled) {
		t.Errorf("for an account that nobody has: %v", err)
	}
}

// What was sent to a replica that is frozen ends when the database says that it lives no longer.
func TestFrozenReplicaIsWaitedForNoLonger(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	b.frozen, b.thaw = make(chan struct{}, 1), make(chan struct{})
	defer close(b.thaw)
	ended := make(chan error, 1)
	go func() {
		resp, err := a.send(context.Background(), b.row)
		if err == nil {
			_ = resp.Body.Close()
		}
		ended <- err
	}()
	<-b.frozen
	l.set(func() { delete(l.live, "b") })
	if err := <-ended; !errors.Is(err, cluster.ErrBroken) {
		t.Errorf("got %v", err)
	}
}
