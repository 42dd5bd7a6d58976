package e2ee_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const administrator = "@admin:liar.test"

func pageOf(t *testing.T, from, limit string) e2ee.Page {
	t.Helper()
	p, err := e2ee.ParsePage(from, limit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An administrator sees the accounts in pages, their devices, warnings, exceptions with who made
// them and when, and what enforcing the policy would have done; and no key, no token and no text.
// The audit log says that they looked.
func TestOverview(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) {
		o.Policy = func() trustcache.Policy { return trustcache.Policy{Send: trustcache.ModeWarn} }
	})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	other := newPuppet(t, st.hs, "carol", "CAROL") // with keys of its own
	st.device(other.Session)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "a secret text")
	st.override(spy, new(false))
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	st.told()
	await(t, "no warning comes", func() bool { return len(warningCodes(t, st.dev)) > 0 })
	see := st.eng.Overview()
	var shown strings.Builder
	show := func(out any, err error) {
		t.Helper()
		raw, merr := json.Marshal(out)
		if err != nil || merr != nil {
			t.Fatal(err, merr)
		}
		shown.Write(raw)
	}

	first, err := see.Accounts(t.Context(), administrator, pageOf(t, "", "1"))
	show(first, err)
	second, err := see.Accounts(t.Context(), administrator, pageOf(t, first.Next, "1"))
	show(second, err)
	last, err := see.Accounts(t.Context(), administrator, pageOf(t, second.Next, "1"))
	show(last, err)
	if a := first.Accounts; len(a) != 1 || a[0].UserID != id.UserID(st.alice.UserID) || a[0].Devices != 1 || a[0].Exceptions != 1 || a[0].Warnings == 0 || a[0].Identity != "verified" {
		t.Errorf("the first account is %+v", a)
	}
	if a := second.Accounts; len(a) != 1 || a[0].UserID != id.UserID(other.UserID) || a[0].Devices != 0 || a[0].OtherDevices != 1 {
		t.Errorf("the second is %+v", a)
	}
	if len(last.Accounts) != 0 || last.Next != "" {
		t.Errorf("and then %+v", last)
	}
	detail, err := see.Account(t.Context(), administrator, id.UserID(st.alice.UserID))
	show(detail, err)
	if d := detail.Devices; len(d) != 1 || d[0].DeviceID != id.DeviceID(st.alice.DeviceID) || d[0].Keys != "proxy" || d[0].Signed == nil || !*d[0].Signed || !d[0].Here {
		t.Errorf("the devices are %+v", d)
	}
	if _, err := see.Account(t.Context(), administrator, "@nobody:liar.test"); !errors.Is(err, e2ee.ErrNoAccount) {
		t.Errorf("somebody who has no account: %v", err)
	}
	exceptions, err := see.Exceptions(t.Context(), administrator, pageOf(t, "", ""))
	show(exceptions, err)
	if x := exceptions.Exceptions; len(x) != 1 || x[0].UserID != id.UserID(bob.UserID) || x[0].DeviceID != "SPY" || x[0].Trusted || x[0].MadeAt == nil ||
		st.now().Sub(*x[0].MadeAt).Abs().Hours() > 1 || x[0].MadeBy != id.DeviceID(st.alice.DeviceID) {
		t.Errorf("the exceptions are %+v", x)
	}
	warnings, err := see.Warnings(t.Context(), administrator, pageOf(t, "", ""))
	show(warnings, err)
	if !strings.Contains(fmt.Sprint(warnings.Warnings), "identity_changed "+bob.UserID) {
		t.Errorf("the warnings are %+v", warnings)
	}
	rollout, err := see.Rollout(t.Context(), administrator, pageOf(t, "", ""))
	show(rollout, err)
	if r := rollout.Accounts; !rollout.OfThisProcess || len(r) != 2 || r[0].UserID != id.UserID(st.alice.UserID) || len(r[0].Would.Rooms) != 1 || r[0].Would.Rooms[0].WithoutKey != 1 {
		t.Errorf("the rollout is %+v", rollout)
	}
	keys := status(t, st.dev).Keys
	for _, secret := range []string{"a secret text", st.alice.Token, string(keys.Ed25519), string(keys.Curve25519), bob.curve25519.String(), other.curve25519.String()} {
		if strings.Contains(shown.String(), secret) {
			t.Errorf("%q is shown in %s", secret, shown.String())
		}
	}
	var looked []string
	for _, r := range st.audited(audit.KindOverview) {
		looked = append(looked, r.Note+r.Account)
	}
	if want := "account, by " + administrator + st.alice.UserID; len(looked) != 7 || !slices.Contains(looked, want) {
		t.Errorf("the audit log says %q, want %q among them", looked, want)
	}
}

// One page is one query about accounts, whatever their number.
func TestOverviewPagesAreParsed(t *testing.T) {
	t.Parallel()
	for _, bad := range [][2]string{{"", "0"}, {"", "501"}, {"", "x"}, {"", "-1"}, {"!", ""}, {"bm8", ""}, {strings.Repeat("A", 4000), ""}, {"eyJyIjotMX0", ""}} {
		if _, err := e2ee.ParsePage(bad[0], bad[1]); !errors.Is(err, e2ee.ErrPage) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// An administrator ends the sessions of an account: the homeserver logs its devices out, also one
// with keys of its own, and the keys that are held here are destroyed. Somebody else's go on, and
// the account can log in again. Where the homeserver does not do it, nothing is destroyed.
func TestAdministratorEndsSessions(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "before")
	own := newPuppet(t, st.hs, "alice", "OWN")
	st.device(own.Session)
	see := st.eng.Overview()
	outcomes := func(e *e2ee.EndedSessions, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, d := range e.Devices {
			all = append(all, string(d.DeviceID)+" "+d.Outcome)
		}
		return strings.Join(all, ", ")
	}
	alice := id.UserID(st.alice.UserID)
	works := func(s liar.Session) bool {
		return call(t, st.hs, s, http.MethodGet, "account/whoami", nil, nil) == http.StatusOK
	}
	broken := st.hs.Intercept(liar.Is(http.MethodPost, "/logout$"), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	if got, want := outcomes(see.EndSessions(t.Context(), administrator, alice)), st.alice.DeviceID+" failed, OWN failed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	broken()
	if !works(st.alice) || status(t, st.dev).Mode != "proxied" {
		t.Error("a session that the homeserver did not end has ended")
	}
	// It says that it has ended them, and it has not: the keys stay.
	lie := st.hs.Intercept(liar.Is(http.MethodPost, "/logout$"), func(*liar.Request, func() liar.Reply) liar.Reply {
		return liar.Reply{Status: http.StatusOK, Body: []byte("{}")}
	})
	if got, want := outcomes(see.EndSessions(t.Context(), administrator, alice)), st.alice.DeviceID+" failed, OWN failed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	lie()
	st.send(room, "still")
	// Whoever is signed in to the console as the account is not any more either.
	if err := st.db.AddConsoleSession(t.Context(), []byte("console"), store.ConsoleSession{UserID: alice}); err != nil {
		t.Fatal(err)
	}

	gone, leave := context.WithCancel(t.Context())
	leave() // who asked is gone: it is done all the same
	if _, err := see.EndSessions(gone, administrator, "@nobody:liar.test"); err == nil {
		t.Error("the sessions of nobody end")
	}
	if got, want := outcomes(see.EndSessions(t.Context(), administrator, alice)), st.alice.DeviceID+" ended, OWN ended"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if s, err := st.db.ConsoleSession(t.Context(), []byte("console")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the console's session of %q goes on: %v", s.UserID, err)
	}
	if works(st.alice) || works(own.Session) || !works(bob.Session) {
		t.Error("the wrong sessions have ended")
	}
	row, err := st.db.LookupAccount(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := st.db.Devices(t.Context(), row); err != nil || len(left) > 0 {
		t.Errorf("%d devices are left, %v", len(left), err)
	}
	again := st.hs.Login("alice", "AGAIN")
	settle(t, st.device(again))
	if said := st.audited(audit.KindSessionsEnded); len(said) != 3 || said[2].Account != st.alice.UserID || said[2].Note != "2 devices, by "+administrator {
		t.Errorf("the audit log says %+v", said)
	}
}
