package decisionpoint

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/secret"
)

const pointToken = "token-of-the-point"

func pointAt(t *testing.T, timeout time.Duration, answer http.HandlerFunc) *Point {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	at, err := url.Parse(s.URL + "/v1/data/e2ee/decisions")
	if err != nil {
		t.Fatal(err)
	}
	return New(at, s.Client().Transport, secret.NewString(pointToken), timeout)
}

func twoQuestions() []rules.Question {
	return []rules.Question{
		{Direction: rules.SendKey, Account: "@a:corp.example", User: "@b:partner.example:8449", Device: rules.DeviceConfirmed, Room: &rules.Room{
			ID: "!r", State: &rules.RoomState{JoinRule: "invite", HistoryVisibility: "shared"}, Servers: []string{"x"}, MembersKnown: true,
		}},
		{Direction: rules.SendKey, Account: "@a:corp.example", User: "@c:corp.example", AnyRoom: true},
	}
}

// All questions are one request in the form of OPA's data API.
func TestOneRequest(t *testing.T) {
	t.Parallel()
	requests := 0
	p := pointAt(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
		requests++
		var got any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		b := map[string]any{"direction": "send_key", "account": "@a:corp.example", "user": "@b:partner.example:8449", "server": "partner.example:8449", "device": "confirmed",
			"room": map[string]any{"id": "!r", "join_rule": "invite", "history_visibility": "shared", "member_servers": []any{"x"}}}
		c := map[string]any{"direction": "send_key", "account": "@a:corp.example", "user": "@c:corp.example", "server": "corp.example", "device": "unknown", "any_room": true}
		want := map[string]any{"input": map[string]any{"decision_id": "D1", "questions": []any{b, c}}}
		if diff := cmp.Diff(want, got); diff != "" || r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer "+pointToken {
			t.Errorf("%s %q (-want +got):\n%s", r.Method, r.Header, diff)
		}
		_, _ = io.WriteString(w, `{"decision_id": "x", "metrics": {}, "result": [true, {"allow": false, "reason": "Not for carol."}]}`)
	})
	got, err := p.Ask(t.Context(), "D1", twoQuestions())
	want := []rules.Answer{{Effect: rules.Allow, Rule: Rule}, {Rule: Rule, Reason: "Not for carol."}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" || requests != 1 {
		t.Errorf("%v, %d requests (-want +got):\n%s", err, requests, diff)
	}
}

// Attack: whoever answers in the point's place, or the point itself, answers nonsense that a careless
// reader takes for leave. Nothing but an answer to each question, in exactly its form, is one.
func TestNonsenseIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		``, `null`, `[]`, `true`, `{}`, `{"result": null}`, `{"result": true}`, `{"result": {}}`, `{"result": {"allow": true}}`, `{"result": []}`,
		`{"result": [true]}`, `{"result": [true, true, true]}`, `{"result": [true, null]}`, `{"result": [true, "true"]}`, `{"result": [true, 1]}`, `{"result": [true, [true]]}`,
		`{"result": [true, {}]}`, `{"result": [true, {"allow": "true"}]}`, `{"result": [true, {"allow": 1}]}`, `{"result": [true, {"Allow": true}]}`,
		`{"result": [true, {"allow": true, "allow": false}]}`, `{"result": [true, {"allow": true, "deny": true}]}`, `{"result": [true, {"reason": "x"}]}`,
		`{"result": [false, false], "result": [true, true]}`, `{"result": [true, true]} {}`, `{"result": [true, true]`, `<html>`,
		`{"result": [true, {"allow": true, "reason": "` + strings.Repeat("x", 100<<10) + `"}]}`,
	} {
		p := pointAt(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if got, err := p.Ask(t.Context(), "D", twoQuestions()); !errors.Is(err, errShape) || got != nil {
			t.Errorf("%.60s: %v, %v", body, got, err)
		}
	}
	p := pointAt(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"result": [{"allow": false, "reason": "two\nlines"}, {"allow": true, "reason": "because"}]}`)
	})
	got, err := p.Ask(t.Context(), "D", twoQuestions())
	if err != nil || got[0].Reason != reasonDenied || got[1].Reason != "" {
		t.Errorf("reasons: %+v, %v", got, err)
	}
}

// Attack: the point redirects to another server, which would be given the token and believed; it
// answers with an error that has a result; it hangs. None of these is an answer.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("another server is asked with %q", r.Header)
		_, _ = io.WriteString(w, `{"result": [true, true]}`)
	}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308, 201, 204, 400, 403, 500, 503} {
		p := pointAt(t, time.Minute, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
			if status != 204 {
				_, _ = io.WriteString(w, `{"result": [true, true]}`)
			}
		})
		if got, err := p.Ask(t.Context(), "D", twoQuestions()); !errors.Is(err, errStatus) || got != nil {
			t.Errorf("%d: %v, %v", status, got, err)
		}
	}
	hangs := make(chan struct{})
	for name, begin := range map[string]string{"at once": "", "in its answer": `{"result": [true, true`} {
		p := pointAt(t, 50*time.Millisecond, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, begin)
			_ = http.NewResponseController(w).Flush()
			<-hangs
		})
		if got, err := p.Ask(t.Context(), "D", twoQuestions()); err == nil || got != nil || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("it hangs %s: %v, %v", name, got, err)
		}
	}
	close(hangs)
}
