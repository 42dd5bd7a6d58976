package e2ee_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/decisionpoint"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/secret"
)

// opa stands for a decision point. What it answers can be changed.
type opa struct {
	mu     sync.Mutex
	asked  []int // how many questions came with each request
	answer func(w http.ResponseWriter, users []string)
}

func (o *opa) set(answer func(w http.ResponseWriter, users []string)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = answer
}

func (o *opa) requests() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]int(nil), o.asked...)
}

// denying answers that some users are denied everything.
func denying(users ...string) func(http.ResponseWriter, []string) {
	return func(w http.ResponseWriter, asked []string) {
		result := make([]any, len(asked))
		for i, user := range asked {
			result[i] = true
			for _, denied := range users {
				if user == denied {
					result[i] = map[string]any{"allow": false, "reason": whyDenied}
				}
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"result": result})
	}
}

// newOPA returns a decision point, and what makes an engine ask it.
func newOPA(t *testing.T, answer func(http.ResponseWriter, []string), list ...rules.Rule) (*opa, func(*e2ee.Options)) {
	t.Helper()
	o := &opa{answer: answer}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Input struct {
				Questions []struct{ User string }
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		users := make([]string, len(body.Input.Questions))
		for i, q := range body.Input.Questions {
			users[i] = q.User
		}
		o.mu.Lock()
		o.asked = append(o.asked, len(users))
		answer := o.answer
		o.mu.Unlock()
		answer(w, users)
	}))
	t.Cleanup(s.Close)
	at, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	point := decisionpoint.New(at, s.Client().Transport, secret.String{}, 300*time.Millisecond)
	set := ruled(t, list...)
	return o, func(opts *e2ee.Options) {
		set(opts)
		opts.Rules.Point = &e2ee.PointSettings{Asker: point}
	}
}

// The decision point is asked once for a message about all who would get its key, whatever the
// number of their devices, and what it denies is withheld and written down. It allows nothing that
// is refused without it.
func TestDecisionPointNarrows(t *testing.T) {
	t.Parallel()
	o, change := newOPA(t, denying("@carol:liar.test"))
	st := newStage(t, change)
	bob, bobs := confirmedPuppet(t, st.hs, "bob", "BOB")
	for _, more := range []string{"BOB2", "BOB3", "BOB4"} {
		bobs.confirm(newPuppet(t, st.hs, "bob", more))
	}
	spy := newPuppet(t, st.hs, "bob", "SPY")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	h := st.send(room, "for bob")
	reads(t, bob, h)
	cannotRead(t, carol, h)
	cannotRead(t, spy, h)
	wantTold(t, carol, h.session, "m.unauthorised")
	wantTold(t, spy, h.session, "m.unverified")
	if diff := cmp.Diff([]int{2}, o.requests()); diff != "" {
		t.Errorf("questions of each request (-want +got):\n%s", diff)
	}
	if got := outcomes(st.audited(audit.KindRoomKey)); !strings.Contains(got, carol.UserID+" CAROL withheld rule:decision_point m.unauthorised") {
		t.Errorf("written down:\n%s", got)
	}
	o.set(denying(bob.UserID))
	next := st.send(room, "for carol")
	if cannotRead(t, bob, next); next.session == h.session {
		t.Error("bob has the key of this message")
	}
	reads(t, carol, next)
}

// Attack: the decision point is kept from answering, or something answers in its place that a
// careless reader takes for leave. Nothing leaves, the client is told to try again, and nobody is
// told that they are denied; it goes on when the point answers. A rule can say that its people are
// not to wait.
func TestDecisionPointDoesNotAnswer(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a redirect was followed")
		_, _ = io.WriteString(w, `{"result": [true, true, true]}`)
	}))
	defer elsewhere.Close()
	o, change := newOPA(t, denying(), rules.Rule{Name: "board", Effect: "allow", OnError: "allow", When: rules.When{User: []string{"@carol:*"}}})
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	st := newStage(t, change)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room, board := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID), st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
	for name, answer := range map[string]func(http.ResponseWriter, []string){
		"hangs":     func(http.ResponseWriter, []string) { <-ended },
		"nonsense":  func(w http.ResponseWriter, _ []string) { _, _ = io.WriteString(w, `{"result": {"allow": true}}`) },
		"says less": func(w http.ResponseWriter, _ []string) { _, _ = io.WriteString(w, `{"result": []}`) },
		"fails":     func(w http.ResponseWriter, _ []string) { w.WriteHeader(http.StatusInternalServerError) },
		"redirects": func(w http.ResponseWriter, _ []string) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
	} {
		o.set(answer)
		wantErr(t, name, second(st.trySend(room, name)), e2ee.ErrCannotEncrypt)
		reads(t, carol, st.send(board, name))
	}
	if sent := st.hs.Requests(liar.Is(http.MethodPut, "/rooms/"+url.PathEscape(room)+"/send/")); len(sent) > 0 || len(bob.withheld()) > 0 {
		t.Errorf("%d events were sent, and bob was told %v", len(sent), bob.withheld())
	}
	o.set(denying())
	reads(t, bob, st.send(room, "it answers"))
}

// A client with keys of its own is held to what the decision point says too.
func TestDecisionPointAndNativeClients(t *testing.T) {
	t.Parallel()
	o, change := newOPA(t, denying("@carol:liar.test"))
	hs := liar.New(t)
	st := &nativeStage{rig: newRig(t, hs, change)}
	st.alice, st.own = confirmedPuppet(t, hs, "alice", "ALICE")
	bob, _ := confirmedPuppet(t, hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, hs, "carol", "CAROL")
	room := hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	if diff := cmp.Diff([]string{carol.UserID + " CAROL"}, st.query(st.alice.UserID, bob.UserID, carol.UserID)); diff != "" {
		t.Errorf("hidden (-want +got):\n%s", diff)
	}
	st.want("by the point", []bool{true, false}, bob, carol)
	st.wantMaySend(room)
	o.set(func(w http.ResponseWriter, _ []string) { _, _ = io.WriteString(w, `{}`) })
	if _, err := st.client(st.alice.Session).MayGet(t.Context(), []e2ee.NativeRecipient{message(bob)}); err == nil {
		t.Error("without an answer something may be given")
	}
}
