package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// killsWanted is how many times a replica is killed.
var killsWanted = flag.Int("kills", 30, "how often replicas are killed under load")

const (
	killRooms   = 5
	killMembers = 4 // of each room, beside the witness
)

// Attack 57: replicas are killed at random under load, at any point of what they do for each
// other's clients, and come back. Twenty accounts go on sending and reading through any of
// them, and repeat what failed with the same transaction ID. No message is lost or doubled,
// no (session, index) is used for two ciphertexts, no one-time key is given out twice or
// uploaded as another one, and who was given each key is in the audit log.
func TestReplicasAreKilled(t *testing.T) {
	t.Parallel()
	kills := *killsWanted
	s := liar.New(t)
	keys := watchOneTimeKeys(s)
	user, password := s.AddUser("witness")
	witness := testpeer.Element(t, testpeer.Options{URL: s.URL, User: user, Password: password, Setup: testpeer.Bootstrap})
	r := startReplicas(t, s.URL, 3)
	var members []*member
	for room := range killRooms {
		members = append(members, bringMembers(t, s, r, witness, room)...)
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for _, m := range members {
		load.Go(func() { m.send(ctx) })
		load.Go(func() { m.read(ctx) })
	}
	s1 := &shooter{of: r, dead: map[*testproxy.Proxy]bool{}}
	pause := time.NewTicker(50 * time.Millisecond)
	defer pause.Stop()
	for killed := 0; killed < kills && !t.Failed(); {
		<-pause.C
		// The instant is meant to be random; about two kills a second.
		if mathrand.IntN(10) == 0 && s1.fire(t.Context()) {
			killed++
		}
	}
	s1.wait.Wait()
	stop()
	load.Wait()
	if t.Failed() {
		return
	}

	all := map[string][]string{} // by room
	for _, m := range members {
		all[m.room] = append(all[m.room], m.sent...)
	}
	total := 0
	for _, m := range members {
		if m.wantEach(all[m.room]); t.Failed() {
			return
		}
	}
	for room, bodies := range all {
		total += len(bodies)
		wantWitnessed(t, witness, room, bodies)
	}
	t.Logf("%d kills, %d messages, %d requests answered by an error that clients repeat", kills, total, repeated(members))
	if total < 2*len(members) {
		t.Errorf("only %d messages were sent", total)
	}
	wantNoIndexTwice(t, s)
	keys.check(t)
	wantAudited(t, s, r, witness)
}

// member is a plain client that uses any replica.
type member struct {
	t      *testing.T
	http   tesths.Client
	name   string
	room   string
	reader *curl
	sent   []string
	failed atomic.Int64
}

// bringMembers makes a room with the witness and accounts of the proxy, each of which has sent
// a message.
func bringMembers(t *testing.T, s *liar.Server, r *replicas, witness *testpeer.Client, n int) []*member {
	t.Helper()
	var sessions []liar.Session
	var invited []string
	for i := range killMembers {
		session := s.Login(fmt.Sprintf("member%d-%d", n, i), "PLAIN")
		sessions, invited = append(sessions, session), append(invited, session.UserID)
	}
	room := witness.CreateRoom(testpeer.Room{Encrypted: true, Invite: invited})
	members := make([]*member, 0, len(sessions))
	for _, session := range sessions {
		direct := tesths.Client{URL: s.URL, Token: session.Token}
		if err := direct.Call(t.Context(), http.MethodPost, roomPath(room, "join"), map[string]any{}, nil); err != nil {
			t.Fatal(err)
		}
		witness.AwaitMember(room, session.UserID, "join")
		m := &member{t: t, name: session.UserID, room: room, http: tesths.Client{URL: "http://any.replica", Token: session.Token, Transport: r}}
		m.reader = newCurl(t, m.http.URL, tesths.Account{UserID: session.UserID, DeviceID: session.DeviceID, AccessToken: session.Token})
		m.reader.http = m.http
		// Nothing is left out of what comes after a wait, so that nothing has to be fetched.
		m.reader.filter = `{"room":{"timeline":{"limit":1000}}}`
		m.reader.sync(0)
		members = append(members, m)
	}
	// A device is published with its first message, so that those before have no key for it.
	for _, m := range members {
		m.say(t.Context(), "first")
		m.sent = nil
	}
	return members
}

func (m *member) body(what string) string { return m.name + " says " + what }

// sayWithin is how long a member goes on trying: its account may lose one owner after the other.
const sayWithin = 2 * time.Minute

// say sends one message, again and again until it is answered.
func (m *member) say(ctx context.Context, what string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sayWithin)
	defer cancel()
	for ctx.Err() == nil {
		err := m.http.Call(ctx, http.MethodPut, roomPath(m.room, "send/m.room.message/%s", what), text(m.body(what)), nil)
		if err == nil {
			m.sent = append(m.sent, m.body(what))
			return
		}
		m.failed.Add(1)
		m.pause(ctx)
	}
	m.t.Errorf("%s could not send for %v", m.name, sayWithin)
}

// pause is what clients wait before they repeat a request.
func (m *member) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(50+mathrand.IntN(200)) * time.Millisecond):
	}
}

// send goes on sending until ctx ends.
func (m *member) send(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		m.say(ctx, strconv.Itoa(n))
		for range 1 + mathrand.IntN(8) {
			m.pause(ctx)
		}
	}
}

// read goes on syncing until ctx ends. What fails is repeated from where it was.
func (m *member) read(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.reader.trySync(ctx, 2*time.Second); err != nil && ctx.Err() == nil {
			m.failed.Add(1)
			m.pause(ctx)
		}
	}
}

// wantEach fails unless the client was shown each of these messages once.
func (m *member) wantEach(bodies []string) {
	m.t.Helper()
	var count map[string]int
	m.reader.insistSync(func() bool {
		count = map[string]int{}
		events := map[string]bool{}
		for _, e := range m.reader.timeline[m.room] {
			var content struct {
				Body string `json:"body"`
			}
			// One whose key came late is delivered again, as the same event.
			if json.Unmarshal(e.Content, &content) == nil && content.Body != "" && !events[e.EventID+content.Body] {
				events[e.EventID+content.Body] = true
				count[content.Body]++
			}
		}
		for _, body := range bodies {
			if count[body] == 0 {
				return false
			}
		}
		return true
	})
	for _, body := range bodies {
		if count[body] != 1 {
			m.t.Errorf("%s was shown %q %d times", m.name, body, count[body])
		}
	}
	if m.t.Failed() {
		m.t.Logf("what %s was shown: %s", m.name, m.reader.show())
	}
}

// wantWitnessed fails unless Element read each message once, with no shield.
func wantWitnessed(t *testing.T, witness *testpeer.Client, room string, bodies []string) {
	t.Helper()
	for _, body := range bodies {
		wantClean(t, witness.AwaitText(room, body), body)
	}
	count := map[string]int{}
	for _, m := range witness.Timeline(room) {
		count[m.Body]++
	}
	for _, body := range bodies {
		if count[body] != 1 {
			t.Errorf("the witness sees %q %d times", body, count[body])
		}
	}
}

func repeated(members []*member) (n int64) {
	for _, m := range members {
		n += m.failed.Load()
	}
	return n
}

// oneTimeKeys is what the homeserver was given and gave out.
type oneTimeKeys struct {
	mu       sync.Mutex
	uploaded map[string]string // by user, device and key ID
	claimed  map[string]int
	faults   []string
}

func watchOneTimeKeys(s *liar.Server) *oneTimeKeys {
	k := &oneTimeKeys{uploaded: map[string]string{}, claimed: map[string]int{}}
	s.Intercept(liar.Is("POST", "/keys/upload$"), func(r *liar.Request, next func() liar.Reply) liar.Reply {
		k.upload(r)
		return next()
	})
	s.Intercept(liar.Is("POST", "/keys/claim$"), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		reply := next()
		k.claim(reply)
		return reply
	})
	return k
}

func oneTimeKey(raw json.RawMessage) string {
	var key struct {
		Key string `json:"key"`
	}
	_ = json.Unmarshal(raw, &key) // an empty key is a fault of its own
	return key.Key
}

func (k *oneTimeKeys) upload(r *liar.Request) {
	var body struct {
		Keys map[string]json.RawMessage `json:"one_time_keys"`
	}
	_ = r.JSON(&body) // other devices' uploads are not ours to judge
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, raw := range body.Keys {
		name := strings.Join([]string{r.UserID, r.DeviceID, id}, " ")
		if before, ok := k.uploaded[name]; ok && before != oneTimeKey(raw) {
			k.faults = append(k.faults, name+" was uploaded as two keys")
		}
		k.uploaded[name] = oneTimeKey(raw)
	}
}

func (k *oneTimeKeys) claim(reply liar.Reply) {
	raw, err := json.Marshal(reply.Body)
	if err != nil {
		return
	}
	var body struct {
		Keys map[string]map[string]map[string]struct {
			Key      string `json:"key"`
			Fallback bool   `json:"fallback"`
		} `json:"one_time_keys"`
	}
	_ = json.Unmarshal(raw, &body) // an error has no keys
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, devices := range body.Keys {
		for _, keys := range devices {
			for _, key := range keys {
				if !key.Fallback {
					k.claimed[key.Key]++
				}
			}
		}
	}
}

func (k *oneTimeKeys) check(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, fault := range k.faults {
		t.Error(fault)
	}
	for key, n := range k.claimed {
		if n > 1 {
			t.Errorf("a one-time key was given out %d times: %.8s…", n, key)
		}
	}
	if len(k.claimed) == 0 {
		t.Error("no one-time key was claimed")
	}
}

// wantAudited fails unless the log of who was given keys is whole, and names the witness for
// every session of which the homeserver has a message.
func wantAudited(t *testing.T, s *liar.Server, r *replicas, witness *testpeer.Client) {
	t.Helper()
	p := r.all[0]
	run := func(command string) string {
		t.Helper()
		out, err := p.Run(t.Context(), "audit "+command)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := run("verify"); !strings.Contains(out, " records are in order\n") {
		t.Error(out)
	}
	given := map[string]bool{}
	for line := range strings.Lines(run("export")) {
		var record struct {
			Session, Recipient, Outcome string
			Device                      string `json:"recipient_device"`
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record.Recipient == witness.UserID && record.Device == witness.DeviceID && record.Outcome == "given" {
			given[record.Session] = true
		}
	}
	sessions := map[string]bool{}
	for _, req := range s.Requests(liar.Is("PUT", "/send/m.room.encrypted/")) {
		var content struct {
			SessionID string `json:"session_id"`
		}
		if err := req.JSON(&content); err != nil {
			t.Fatal(err)
		}
		if req.UserID != witness.UserID {
			sessions[content.SessionID] = true
		}
	}
	for session := range sessions {
		if !given[audit.HashSession(session)] {
			t.Errorf("nothing tells that %s's key was given to the witness", filepath.Base(session))
		}
	}
	if len(sessions) < killRooms*killMembers {
		t.Errorf("only %d sessions were used", len(sessions))
	}
}
