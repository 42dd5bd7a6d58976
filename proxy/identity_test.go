package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

// seenBy returns a handler that keeps the identities it was called with.
func seenBy(to *[]interceptors.Identity) interceptors.Handler {
	var mu sync.Mutex
	return func(x *interceptors.Exchange) error {
		mu.Lock()
		*to = append(*to, x.Identity)
		mu.Unlock()
		_, err := io.WriteString(x.Writer, "{}")
		return err
	}
}

// Any valid token works, and whom it belongs to is asked once.
func TestIdentityComesFromWhoami(t *testing.T) {
	t.Parallel()
	var got []interceptors.Identity
	g := newRig(t, func(o *Options) { o.Handlers[interceptors.Sync] = seenBy(&got) })
	g.hs.set(func() { g.hs.tokens["guest"] = `{"user_id":"@1:hs","is_guest":true}` })
	for _, token := range []string{"alice", "alice", "bob", "guest", "alice"} {
		if a := g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer "+token); a.StatusCode != 200 {
			t.Errorf("%s: %d %s", token, a.StatusCode, a.body)
		}
	}
	bob := interceptors.Identity{UserID: "@bob:hs", DeviceID: "BOB", Token: secret.NewString("bob")}
	guest := interceptors.Identity{UserID: "@1:hs", Guest: true, Token: secret.NewString("guest")}
	want := []interceptors.Identity{alice(), alice(), bob, guest, alice()}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(secret.String{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := g.hs.whoamis(); n != 3 {
		t.Errorf("%d look-ups for three tokens", n)
	}
}

func testIdentities(t *testing.T, ask func(context.Context, credentials) (interceptors.Identity, error)) *identities {
	t.Helper()
	c, err := newIdentities(testHash, 16, maxIdentityAge, ask)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A token that was revoked elsewhere stops working within 60 seconds of its last
// confirmation, counted from when that was asked for.
func TestIdentityIsBelievedForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := testIdentities(t, func(context.Context, credentials) (interceptors.Identity, error) {
			asked++
			time.Sleep(5 * time.Second)
			return alice(), nil
		})
		lookUp := func() {
			if who, err := c.owner(t.Context(), credentials{token: "alice"}); err != nil || who.UserID != "@alice:hs" {
				t.Errorf("got %v, %v", who, err)
			}
		}
		lookUp()
		time.Sleep(54 * time.Second)
		lookUp()
		if asked != 1 {
			t.Errorf("asked %d times after 59 s", asked)
		}
		time.Sleep(time.Second)
		lookUp()
		if asked != 2 {
			t.Errorf("asked %d times after 60 s", asked)
		}
	})
}

// A hundred requests with one new token are one look-up, and the client that caused it
// may leave without taking the answer from the others.
func TestIdentityLooksUpOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		c := testIdentities(t, func(ctx context.Context, _ credentials) (interceptors.Identity, error) {
			asked.Add(1)
			select {
			case <-time.After(time.Second):
				return alice(), nil
			case <-ctx.Done():
				return interceptors.Identity{}, ctx.Err()
			}
		})
		first, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.owner(first, credentials{token: "alice"}) })
		synctest.Wait()
		for range 99 {
			wg.Go(func() {
				if who, err := c.owner(t.Context(), credentials{token: "alice"}); err != nil || who.UserID != "@alice:hs" {
					t.Errorf("got %v, %v", who, err)
				}
			})
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.owner(impatient, credentials{token: "alice"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that does not wait got %v", err)
		}
		leave()
		wg.Wait()
		if asked.Load() != 1 {
			t.Errorf("asked %d times", asked.Load())
		}
	})
}

// A token that is dropped while its look-up is under way is not remembered: the answer
// may be older than the reason for dropping it.
func TestIdentityDroppedInFlightIsNotKept(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(*identities){
		"token": func(c *identities) { c.drop("alice") },
		"user":  func(c *identities) { c.dropUser("@alice:hs") },
	} {
		asked := 0
		var c *identities
		c = testIdentities(t, func(context.Context, credentials) (interceptors.Identity, error) {
			if asked++; asked == 1 {
				drop(c)
			}
			return alice(), nil
		})
		for range 3 {
			if _, err := c.owner(t.Context(), credentials{token: "alice"}); err != nil {
				t.Error(err)
			}
		}
		if asked != 2 {
			t.Errorf("%s: asked %d times, want twice", name, asked)
		}
	}
}

// Refusals and failures are not remembered, and a look-up that breaks lets nobody in.
func TestIdentityRemembersNoFailure(t *testing.T) {
	t.Parallel()
	asked := 0
	c := testIdentities(t, func(context.Context, credentials) (interceptors.Identity, error) {
		asked++
		if asked == 2 {
			panic("a bug")
		}
		return interceptors.Identity{}, apierr.UnknownToken(false)
	})
	for range 3 {
		func() {
			defer func() { _ = recover() }()
			if who, err := c.owner(t.Context(), credentials{token: "x"}); err == nil {
				t.Errorf("let in %v", who)
			}
		}()
	}
	if asked != 3 || len(c.lookingUp) != 0 {
		t.Errorf("asked %d times, %d in flight", asked, len(c.lookingUp))
	}
}

// The cache is bounded, also for one token that acts as many users.
func TestIdentityCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := testIdentities(t, func(_ context.Context, cred credentials) (interceptors.Identity, error) {
		return interceptors.Identity{UserID: id.UserID(cred.user)}, nil
	})
	for i := range 3 * maxAsserted {
		if _, err := c.owner(t.Context(), credentials{token: "as", user: fmt.Sprintf("@u%d:hs", i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if _, err := c.owner(t.Context(), credentials{token: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.known.Len(); n > 16 {
		t.Errorf("%d tokens are kept", n)
	}
	all, _ := c.known.Peek(testHash([]byte("as")))
	if len(all) > maxAsserted {
		t.Errorf("%d identities of one token are kept", len(all))
	}
}

// Attack vector (32): an application service's token acts as one user, and the proxy
// serves what it cached of another (requirement 23.2).
func TestIdentityIsBoundToTheAssertion(t *testing.T) {
	t.Parallel()
	var got []interceptors.Identity
	g := newRig(t, func(o *Options) { o.Handlers[interceptors.Sync] = seenBy(&got) })
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			user, device := r.URL.Query().Get("user_id"), r.URL.Query().Get("device_id")
			switch {
			case user == "":
				user = "@as:hs"
			case !strings.HasPrefix(user, "@ghost"):
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"not yours"}`)
				return
			}
			_, _ = fmt.Fprintf(w, `{"user_id":%q,"device_id":%q}`, user, device)
		}
	})
	for _, query := range []string{"", "?user_id=@ghost1:hs", "?user_id=@ghost2:hs&device_id=D", "?user_id=@ghost2:hs&org.matrix.msc3202.device_id=D", "?user_id=%40ghost1%3Ahs"} {
		if a := g.do("GET", "/_matrix/client/v3/sync"+query, "", "Authorization: Bearer as"); a.StatusCode != 200 {
			t.Errorf("%s: %d %s", query, a.StatusCode, a.body)
		}
	}
	var names []string
	for _, who := range got {
		names = append(names, fmt.Sprintf("%s/%s %t", who.UserID, who.DeviceID, who.Asserted))
	}
	if diff := cmp.Diff([]string{"@as:hs/ false", "@ghost1:hs/ true", "@ghost2:hs/D true", "@ghost2:hs/D true", "@ghost1:hs/ true"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := g.hs.whoamis(); n != 3 {
		t.Errorf("%d look-ups", n)
	}
	a := g.do("GET", "/_matrix/client/v3/sync?user_id=@alice:hs", "", "Authorization: Bearer as")
	if a.StatusCode != 403 || a.errcode() != "M_FORBIDDEN" {
		t.Errorf("somebody else: %d %s", a.StatusCode, a.body)
	}
	if a := g.do("GET", "/_matrix/client/v3/sync?user_id=@ghost1:hs&user_id=@ghost2:hs", "", "Authorization: Bearer as"); a.StatusCode != 400 {
		t.Errorf("two at once: %d %s", a.StatusCode, a.body)
	}
}

// For everybody but application services the homeserver ignores what a query asserts: it
// is the user's own token, and the proxy goes on doing its encryption.
func TestIdentityThatIgnoresTheAssertion(t *testing.T) {
	t.Parallel()
	var got []interceptors.Identity
	g := newRig(t, func(o *Options) { o.Handlers[interceptors.Sync] = seenBy(&got) })
	for _, query := range []string{"user_id=@bob:hs", "device_id=BOB", "user_id=@alice:hs&device_id=ALICE"} {
		if a := g.do("GET", "/_matrix/client/v3/sync?"+query, "", "Authorization: Bearer alice"); a.StatusCode != 200 {
			t.Errorf("%s: %d %s", query, a.StatusCode, a.body)
		}
	}
	for _, who := range got {
		if who.UserID != "@alice:hs" || who.DeviceID != "ALICE" || who.Asserted {
			t.Errorf("got %+v", who)
		}
	}
}

// What the homeserver says of a token reaches the client: soft logout, locked and
// suspended users, rate limits (requirements 22.1 and 22.2). A homeserver that cannot
// answer lets nobody in.
func TestRefusalsOfTokensPassOn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status       int
		body         string
		want         int
		code, member string
	}{
		{401, `{"errcode":"M_UNKNOWN_TOKEN","error":"gone","soft_logout":true}`, 401, "M_UNKNOWN_TOKEN", `"soft_logout":true`},
		{401, `{"errcode":"M_USER_LOCKED","error":"locked","soft_logout":true}`, 401, "M_USER_LOCKED", `"soft_logout":true`},
		{403, `{"errcode":"M_USER_SUSPENDED","error":"suspended"}`, 403, "M_USER_SUSPENDED", ""},
		{429, `{"errcode":"M_LIMIT_EXCEEDED","error":"slow down","retry_after_ms":2000}`, 429, "M_LIMIT_EXCEEDED", `"retry_after_ms":2000`},
		{500, `{"errcode":"M_UNKNOWN","error":"traceback"}`, 502, "M_UNKNOWN", ""},
		{404, `{"errcode":"M_UNRECOGNIZED","error":"what"}`, 502, "M_UNKNOWN", ""},
		{302, ``, 502, "M_UNKNOWN", ""},
		{200, `<html>`, 502, "M_UNKNOWN", "is no Matrix homeserver"},
		{404, `<html>`, 502, "M_UNKNOWN", "is no Matrix homeserver"},
		{503, `<html>`, 502, "M_UNKNOWN", "answered with an error"},
		{200, `{}`, 502, "M_UNKNOWN", ""},
	} {
		g := newRig(t, nil)
		g.hs.set(func() {
			g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "2")
				w.Header().Set("Location", "http://elsewhere.test/")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}
		})
		a := g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer alice")
		if a.StatusCode != test.want || a.errcode() != test.code || !strings.Contains(a.body, test.member) || strings.Contains(a.body, "traceback") {
			t.Errorf("%d %s: got %d %s", test.status, test.body, a.StatusCode, a.body)
		}
		if test.status == 429 && a.Header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After is lost: %v", a.Header)
		}
	}
	g := newRig(t, nil)
	g.hs.Close()
	if a := g.do("PUT", "/_matrix/client/v3/rooms/!r:hs/send/x/t", "{}", "Authorization: Bearer alice"); a.StatusCode != 502 || a.errcode() != "M_UNKNOWN" || a.Header.Get("Retry-After") == "" {
		t.Errorf("homeserver down: %d %v %s", a.StatusCode, a.Header, a.body)
	}
}

// Logging out works for a user who is locked, although whoami does not (Client-Server
// API, "Account locking").
func TestOptionalIdentity(t *testing.T) {
	t.Parallel()
	var got []interceptors.Identity
	g := newRig(t, func(o *Options) { o.Handlers[interceptors.Logout] = seenBy(&got) })
	for _, header := range [][]string{nil, {"Authorization: Bearer locked"}, {"Authorization: Bearer alice"}} {
		if a := g.do("POST", "/_matrix/client/v3/logout", "{}", header...); a.StatusCode != 200 {
			t.Errorf("%v: %d %s", header, a.StatusCode, a.body)
		}
	}
	want := []interceptors.Identity{{}, {Token: secret.NewString("locked")}, alice()}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(secret.String{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	g.hs.Close()
	if a := g.do("POST", "/_matrix/client/v3/logout", "{}", "Authorization: Bearer bob"); a.StatusCode != 502 {
		t.Errorf("homeserver down: %d", a.StatusCode)
	}
}
