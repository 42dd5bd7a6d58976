package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testproxy"
)

// What was sent while the proxy was down is readable when it is back, with an old room key
// and with a new one.
func TestProxyWasDown(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		account := newAccount(t, hs, "bob")
		room := bring(t, hs, alice, account)
		bob := newCurl(t, proxy.URL, account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "here I am")), "here I am")
		up := alice.SendText(room, "while it was up")
		bob.Await(room, testpeer.Where{"event_id": up, "body": "while it was up"})

		proxy.Kill()
		old := alice.SendText(room, "with the old key")
		alice.DiscardSession(room)
		fresh := alice.SendText(room, "with a new key")
		if err := proxy.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		bob.Await(room, testpeer.Where{"event_id": old, "body": "with the old key"})
		bob.Await(room, testpeer.Where{"event_id": fresh, "body": "with a new key"})
	})
}

// crashRounds is how many times a proxy is killed, in several worlds side by side.
const crashRounds, crashWorlds = 200, 4

// Attack 52: SIGKILL at random points: right before or after the homeserver did what the
// proxy asked for, before or after the proxy got its answer, in syncs, key uploads, key
// claims, to-device messages and sends. The client repeats its send with the same
// transaction ID until it is answered. No message is lost or doubled in either direction,
// and no (session, index) is used for two ciphertexts.
func TestKillAtAnyPoint(t *testing.T) {
	t.Parallel()
	rounds := crashRounds / crashWorlds
	if testing.Short() {
		rounds = 5
	}
	for world := range crashWorlds {
		t.Run(fmt.Sprint(world), func(t *testing.T) {
			t.Parallel()
			killAtAnyPoint(t, rounds)
		})
	}
}

func killAtAnyPoint(t *testing.T, rounds int) {
	t.Helper()
	s := liar.New(t)
	b := s.Login("bob", "BOB")
	user, password := s.AddUser("alice")
	alice := testpeer.Element(t, testpeer.Options{URL: s.URL, User: user, Password: password, Setup: testpeer.Bootstrap})
	proxy := testproxy.Start(t, s.URL, testproxy.Options{})
	bob := newCurl(t, proxy.URL, tesths.Account{UserID: b.UserID, DeviceID: b.DeviceID, AccessToken: b.Token})
	room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
	direct := tesths.Client{URL: s.URL, Token: b.Token}
	if err := direct.Call(t.Context(), http.MethodPost, roomPath(room, "join"), map[string]any{}, nil); err != nil {
		t.Fatal(err)
	}
	alice.AwaitMember(room, b.UserID, "join")
	alice.AwaitDecrypted(room, bob.SendText(room, "before the first round"))

	killer := &killer{proxy: proxy}
	defer s.Intercept(liar.Of(b.UserID, liar.Is("", "^/_matrix/")), killer.hook)()
	for round := range rounds {
		crashRound(t, round, killer, alice, bob, room)
		if t.Failed() {
			t.Fatalf("round %d, killed %s", round, killer.where())
		}
	}
	wantNoIndexTwice(t, s)
}

func crashRound(t *testing.T, round int, killer *killer, alice *testpeer.Client, bob *curl, room string) {
	if rand.IntN(4) == 0 {
		alice.DiscardSession(room)
	}
	killer.arm(1+rand.IntN(10), point(rand.IntN(int(points))))
	fromAlice := fmt.Sprintf("alice in round %d", round)
	fromBob := fmt.Sprintf("bob in round %d", round)
	sent := make(chan string, 1)
	go func() {
		sent <- bob.insist(roomPath(room, "send/m.room.message/%s", fmt.Sprintf("round%d", round)), text(fromBob))
	}()
	aliceSent := alice.SendText(room, fromAlice)
	revived := make(chan error, 1)
	go func() { revived <- killer.revive(t.Context()) }()
	event := <-sent
	killer.fire()
	if err := <-revived; err != nil {
		t.Errorf("the proxy does not come back: %v", err)
		return
	}
	if got := alice.AwaitDecrypted(room, event); got.Body != fromBob || got.Shield == nil || got.Shield.Colour != "NONE" {
		t.Errorf("alice sees %q, shield %+v, want %q", got.Body, got.Shield, fromBob)
	}
	bob.insistSync(func() bool {
		_, seen := bob.find(room, testpeer.Where{"event_id": aliceSent, "body": fromAlice})
		return seen
	})
	count := 0
	for _, m := range alice.Timeline(room) {
		if m.Body == fromBob {
			count++
		}
	}
	if count != 1 {
		t.Errorf("alice sees %q %d times", fromBob, count)
	}
}

// insist repeats a request until it is answered with success.
func (c *curl) insist(path string, content any) string {
	ctx, cancel := context.WithTimeout(c.t.Context(), testpeer.Deadline)
	defer cancel()
	var sent struct {
		EventID string `json:"event_id"`
	}
	err := testproc.Await(ctx, func(ctx context.Context) error {
		return c.http.Call(ctx, http.MethodPut, path, content, &sent)
	})
	if err != nil {
		c.t.Errorf("send: %v", err)
	}
	return sent.EventID
}

// insistSync syncs until done is true; what fails is repeated.
func (c *curl) insistSync(done func() bool) {
	ctx, cancel := context.WithTimeout(c.t.Context(), testpeer.Deadline)
	defer cancel()
	err := testproc.Await(ctx, func(ctx context.Context) error {
		if err := c.trySync(ctx, time.Second); err != nil {
			return err
		}
		if !done() {
			return fmt.Errorf("not seen; timelines %s", c.show())
		}
		return nil
	})
	if err != nil {
		c.t.Errorf("%v", err)
	}
}

// point is where in a request of the proxy's the kill comes.
type point int

const (
	beforeServer point = iota // the homeserver has not done it
	beforeAnswer              // the homeserver has done it, the proxy has no answer
	afterAnswer               // the proxy has the answer and does something with it
	points
)

func (p point) String() string {
	switch p {
	case beforeServer:
		return "before the homeserver did it"
	case beforeAnswer:
		return "before the answer came"
	case afterAnswer:
		return "after the answer came"
	case points:
	}
	return "nowhere"
}

// killer kills the proxy once a round, at its n-th request from the arming on.
type killer struct {
	proxy *testproxy.Proxy

	mu    sync.Mutex
	left  int
	at    point
	path  string
	armed bool
	shot  chan struct{}
}

func (k *killer) arm(n int, at point) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.at, k.armed, k.path = n, at, true, "when nothing was going on"
	k.shot = make(chan struct{})
}

// due reports whether this request is the one.
func (k *killer) due(r *liar.Request) (point, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left--
	if k.left != 0 || !k.armed {
		return points, false
	}
	k.path = r.Method + " " + r.Path
	return k.at, true
}

func (k *killer) hook(r *liar.Request, next func() liar.Reply) liar.Reply {
	at, due := k.due(r)
	if !due {
		return next()
	}
	switch at {
	case beforeServer:
		k.fire()
		return liar.Reply{Cut: true}
	case beforeAnswer:
		next()
		k.fire()
		return liar.Reply{Cut: true}
	case afterAnswer:
		reply := next()
		// The instant is meant to be random: anywhere in what the proxy does next.
		time.AfterFunc(time.Duration(rand.IntN(int(4*time.Millisecond))), k.fire)
		return reply
	case points:
	}
	return next()
}

// fire kills the proxy, if it has not done so since it was armed.
func (k *killer) fire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.armed {
		k.armed = false
		k.proxy.Kill()
		close(k.shot)
	}
}

// revive waits for the shot and starts the proxy again.
func (k *killer) revive(ctx context.Context) error {
	k.mu.Lock()
	shot := k.shot
	k.mu.Unlock()
	<-shot
	return k.proxy.Start(ctx)
}

func (k *killer) where() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("%s: %s", k.path, k.at)
}

// wantNoIndexTwice looks at every ciphertext that was sent and fails when a session's
// index was used for two.
func wantNoIndexTwice(t *testing.T, s *liar.Server) {
	t.Helper()
	used := map[string]string{}
	for _, r := range s.Requests(liar.Is("PUT", "/send/m.room.encrypted/")) {
		var content struct {
			SessionID  string `json:"session_id"`
			Ciphertext string `json:"ciphertext"`
		}
		if err := r.JSON(&content); err != nil {
			t.Error(err)
			continue
		}
		index, err := messageIndex(content.Ciphertext)
		if err != nil {
			t.Error(err)
			continue
		}
		key := fmt.Sprintf("%s at %d", content.SessionID, index)
		if before, ok := used[key]; ok && before != content.Ciphertext {
			t.Errorf("session %s was used for two ciphertexts", key)
		}
		used[key] = content.Ciphertext
	}
	if len(used) < 20 {
		t.Errorf("only %d ciphertexts seen", len(used))
	}
}

// messageIndex reads the index of a Megolm message: a version byte, then the tag 0x08
// and the index as a variable-length integer (Megolm, message format).
func messageIndex(ciphertext string) (uint64, error) {
	raw, err := base64.RawStdEncoding.DecodeString(ciphertext)
	if err != nil {
		return 0, fmt.Errorf("megolm message: %w", err)
	}
	if len(raw) < 3 || raw[0] != 3 || raw[1] != 8 {
		return 0, fmt.Errorf("megolm message: begins with % x", raw[:min(3, len(raw))])
	}
	index, shift := uint64(0), 0
	for _, b := range raw[2:] {
		index |= uint64(b&0x7f) << shift
		if b&0x80 == 0 {
			return index, nil
		}
		shift += 7
	}
	return 0, fmt.Errorf("megolm message: the index does not end")
}
