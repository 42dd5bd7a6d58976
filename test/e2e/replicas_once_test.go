package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// turnstile stands between replicas and a homeserver. While it is armed it stops each request
// that something would be done twice by, once: before the homeserver gets it, or after it was done.
type turnstile struct {
	*httptest.Server
	to *httputil.ReverseProxy

	mu      sync.Mutex
	armed   bool
	after   bool
	seen    map[string]bool
	masters map[string]map[string]bool // that were published, by token
	stopped chan string
	open    chan struct{}
}

var stoppedPaths = regexp.MustCompile(`/(createRoom|logout|kick|invite|upgrade|account/password|device_signing/upload)$|/(send|redact)/`)

func newTurnstile(t *testing.T, homeserver string) *turnstile {
	t.Helper()
	to, err := url.Parse(homeserver)
	if err != nil {
		t.Fatal(err)
	}
	s := &turnstile{stopped: make(chan string, 100), seen: map[string]bool{}, masters: map[string]map[string]bool{}, open: make(chan struct{})}
	s.to = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = to.Host
	}, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// arm has requests stopped from now on.
func (s *turnstile) arm(after bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed, s.after = true, after
}

// stops reports whether a request is to be stopped now.
func (s *turnstile) stops(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Header.Get("Authorization") // each account has one
	if !s.armed || r.Method == http.MethodGet || !stoppedPaths.MatchString(r.URL.Path) {
		return false
	}
	if strings.HasSuffix(r.URL.Path, "/device_signing/upload") && !s.publishes(r, key) || s.seen[key] {
		return false
	}
	s.seen[key] = true
	return true
}

// publishes notes the identity that is published by a request; false if it only asks how to authenticate
// that.
func (s *turnstile) publishes(r *http.Request, by string) bool {
	raw, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var body struct {
		Auth   struct{ Type string }
		Master struct{ Keys map[string]string } `json:"master_key"`
	}
	if err != nil || json.Unmarshal(raw, &body) != nil || body.Auth.Type == "" {
		return false
	}
	if s.masters[by] == nil {
		s.masters[by] = map[string]bool{}
	}
	for key := range body.Master.Keys {
		s.masters[by][key] = true
	}
	return true
}

// published returns how many identities were published with a token.
func (s *turnstile) published(token string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.masters["Bearer "+token])
}

// pass has the homeserver answer. What one does with an invitation by e-mail is done here, but for the
// e-mail, for which there is no identity server: it puts the event into the room.
func (s *turnstile) pass(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/invite") {
		raw, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(raw))
		if err == nil && bytes.Contains(raw, []byte(`"address"`)) {
			path := strings.TrimSuffix(r.URL.Path, "/invite") + "/state/m.room.third_party_invite/" + rand.Text()
			content := `{"display_name":"o...@e...","key_validity_url":"https://id.example/valid","public_key":"` + strings.Repeat("A", 43) + `"}`
			invite := r.Clone(r.Context())
			invite.Method, invite.URL.Path, invite.URL.RawPath = http.MethodPut, path, ""
			invite.Body, invite.ContentLength = io.NopCloser(strings.NewReader(content)), int64(len(content))
			r = invite
		}
	}
	s.to.ServeHTTP(w, r)
}

func (s *turnstile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.stops(r) {
		s.pass(w, r)
		return
	}
	if s.after { // whoever asked may be gone by then
		s.pass(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
	}
	s.stopped <- r.URL.Path
	<-s.open
	panic(http.ErrAbortHandler)
}

// onceCase is a request that would be another thing if it were done twice.
type onceCase struct {
	what string
	user *curl
	path string
	body any
	// check looks at the homeserver, where the answer is known.
	check func(answer map[string]string)
}

// A replica is killed while requests are under way that cannot simply be made again: before the
// homeserver got them, and after it did them but before it answered. Their clients, connected to
// another replica, see no error; and each was done once.
func TestRequestsAreDoneOnce(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]bool{"not done": false, "done": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantDoneOnce(t, shared.Dendrite(t), after, onceCases)
		})
	}
}

// wantDoneOnce makes requests by a replica, of which another is killed while the homeserver has them.
func wantDoneOnce(t *testing.T, hs *tesths.Homeserver, after bool, bring func(*testing.T, *tesths.Homeserver, *turnstile, *testproxy.Proxy) []onceCase) {
	t.Helper()
	stile, c := newTurnstile(t, hs.URL), newCluster(t)
	start := func() *testproxy.Proxy {
		return testproxy.Start(t, stile.URL, testproxy.Options{Config: c.settings(t)})
	}
	a, b := start(), start()
	awaitMetric(t, a, "e2ee_proxy_cluster_replicas", "2")
	cases := bring(t, hs, stile, a)
	stile.arm(after)
	answers := make([]tesths.Response, len(cases))
	var all sync.WaitGroup
	for i, one := range cases {
		one.user.http.URL = b.URL
		all.Go(func() {
			var err error
			if answers[i], err = one.user.http.Do(t.Context(), http.MethodPost, one.path, one.body); err != nil {
				t.Errorf("%s: %v", one.what, err)
			}
		})
	}
	deadline := time.After(time.Minute)
	for range cases {
		select {
		case <-stile.stopped:
		case <-deadline:
			t.Fatal("not all requests came to the homeserver")
		}
	}
	a.Kill()
	all.Wait()
	close(stile.open)
	for i, one := range cases {
		if answers[i].Status != http.StatusOK {
			t.Errorf("%s is answered with %d %s", one.what, answers[i].Status, answers[i].Body)
			continue
		}
		var said map[string]string
		if err := json.Unmarshal(answers[i].Body, &said); err != nil {
			t.Errorf("%s is answered with %s", one.what, answers[i].Body)
		}
		one.check(said)
	}
}

// onceCases makes the accounts and rooms, all of a replica.
func onceCases(t *testing.T, hs *tesths.Homeserver, _ *turnstile, at *testproxy.Proxy) []onceCase {
	t.Helper()
	person := func() *curl { return loginCurl(t, at.URL, newAccount(t, hs, "once"), "") }
	joined := func(c *curl) []string {
		var said struct {
			Rooms []string `json:"joined_rooms"`
		}
		direct := tesths.Client{URL: hs.URL, Token: c.account.AccessToken}
		if err := direct.Call(t.Context(), http.MethodGet, "/_matrix/client/v3/joined_rooms", nil, &said); err != nil {
			t.Error(err)
		}
		return said.Rooms
	}
	// count counts the events of a type in a room, those about one user if it is named.
	count := func(c *curl, room, typ, about string) (n int) {
		direct := tesths.Client{URL: hs.URL, Token: c.account.AccessToken}
		events, err := direct.Messages(t.Context(), room)
		if err != nil {
			t.Error(err)
		}
		for _, e := range events {
			if e.Type == typ && (about == "" || e.StateKey != nil && *e.StateKey == about) {
				n++
			}
		}
		return n
	}
	plain := func(c *curl) string {
		var made struct {
			RoomID string `json:"room_id"`
		}
		c.call(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"}, &made)
		return made.RoomID
	}
	// want counts when what was sent to the room afterwards shows: Dendrite shows events in order, a moment after
	// it has answered.
	want := func(what string, want int, c *curl, room, typ, about string) {
		direct := tesths.Client{URL: hs.URL, Token: c.account.AccessToken}
		if err := direct.Call(t.Context(), http.MethodPut, roomPath(room, "send/org.example.last/last"), map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
		c.await(what, func(context.Context) error {
			if count(c, room, "org.example.last", "") == 0 {
				return errors.New("the last event does not show")
			}
			return nil
		})
		if got := count(c, room, typ, about); got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	guest := newAccount(t, hs, "guest")

	var cases []onceCase
	makes := func(what string, body map[string]any) {
		c := person()
		cases = append(cases, onceCase{what, c, "/_matrix/client/v3/createRoom", body, func(answer map[string]string) {
			if rooms := joined(c); len(rooms) != 1 || rooms[0] != answer["room_id"] {
				t.Errorf("%s: the client is told %q, and is in %q", what, answer["room_id"], rooms)
			}
		}})
	}
	makes("a room", map[string]any{})
	makes("a room with a name", map[string]any{"name": "Once", "topic": "No more", "preset": "private_chat"})
	makes("an encrypted room for two", map[string]any{"is_direct": true, "invite": []string{guest.UserID}, "initial_state": []any{map[string]any{
		"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"},
	}}})

	sender := person()
	room := plain(sender)
	cases = append(cases, onceCase{"a message", sender, roomPath(room, "send/m.room.message"), text("once"), func(map[string]string) {
		want("messages", 1, sender, room, "m.room.message", "")
	}})
	encrypter := person()
	secretRoom := encrypter.createRoom()
	cases = append(cases, onceCase{"an encrypted message", encrypter, roomPath(secretRoom, "send/m.room.message"), text("once"), func(map[string]string) {
		want("encrypted messages", 1, encrypter, secretRoom, "m.room.encrypted", "")
	}})
	redacter := person()
	redactRoom := plain(redacter)
	wrong := redacter.SendText(redactRoom, "wrong")
	cases = append(cases, onceCase{"a redaction", redacter, roomPath(redactRoom, "redact/%s", wrong), map[string]any{}, func(map[string]string) {
		want("redactions", 1, redacter, redactRoom, "m.room.redaction", "")
	}})
	inviter := person()
	inviteRoom := plain(inviter)
	cases = append(cases, onceCase{"an invitation", inviter, roomPath(inviteRoom, "invite"), map[string]any{"user_id": guest.UserID}, func(map[string]string) {
		want("invitations", 1, inviter, inviteRoom, "m.room.member", guest.UserID)
	}})
	kicker := person()
	kickRoom := plain(kicker)
	direct := tesths.Client{URL: hs.URL, Token: guest.AccessToken}
	if err := direct.Call(t.Context(), http.MethodPost, roomPath(kickRoom, "join"), map[string]any{}, nil); err != nil {
		t.Fatal(err)
	}
	cases = append(cases, onceCase{"a kick", kicker, roomPath(kickRoom, "kick"), map[string]any{"user_id": guest.UserID}, func(map[string]string) {
		want("what became of the guest", 2, kicker, kickRoom, "m.room.member", guest.UserID)
	}})
	upgrader := person()
	oldRoom := plain(upgrader)
	cases = append(cases, onceCase{"an upgrade", upgrader, roomPath(oldRoom, "upgrade"), map[string]any{"new_version": "10"}, func(answer map[string]string) {
		if rooms := joined(upgrader); len(rooms) != 2 || !slices.Contains(rooms, answer["replacement_room"]) {
			t.Errorf("the client is told of %q, and is in %q", answer["replacement_room"], rooms)
		}
	}})
	leaver := person()
	cases = append(cases, onceCase{"a logout", leaver, "/_matrix/client/v3/logout", map[string]any{}, func(map[string]string) {
		client := tesths.Client{URL: hs.URL, Token: leaver.account.AccessToken}
		if said, err := client.Do(t.Context(), http.MethodGet, "/_matrix/client/v3/account/whoami", nil); err != nil || said.Status != http.StatusUnauthorized {
			t.Errorf("after a logout the token is answered with %d, %v", said.Status, err)
		}
	}})
	return cases
}
