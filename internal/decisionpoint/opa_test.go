package decisionpoint

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testproc"
)

// onlyWithToken is a policy of OPA itself: who asks has to show the token.
const onlyWithToken = `package system.authz

default allow := false

allow if input.identity == "` + pointToken + `"
allow if input.path == ["health"]
`

// startOPA starts a real OPA with a policy and returns where its data API is.
func startOPA(t *testing.T, policy string) string {
	t.Helper()
	program, err := testproc.GoProgram(t.Context(), filepath.Join("test", "opa"), "github.com/open-policy-agent/opa")
	if err != nil {
		testproc.Missing(t, "OPA", err)
	}
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "policy.rego"), filepath.Join(dir, "authz.rego")}
	for i, text := range []string{policy, onlyWithToken} {
		if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports, err := testproc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{
		"run", "--server", "--addr", fmt.Sprintf("127.0.0.1:%d", ports[0]), "--disable-telemetry", "--authentication=token", "--authorization=basic",
	}, files...)...)
	cmd.Dir = dir
	server, err := testproc.Start(t, "opa", cmd)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	if err := server.AwaitReady(t.Context(), time.Minute, testproc.Answers(at+"/health")); err != nil {
		t.Fatalf("%v\n%s", err, server.Log().Tail(20))
	}
	return at
}

// askOPA returns the point at a path of a running OPA.
func askOPA(t *testing.T, at, path, token string) *Point {
	t.Helper()
	to, err := url.Parse(at + path)
	if err != nil {
		t.Fatal(err)
	}
	return New(to, http.DefaultTransport, secret.NewString(token), time.Minute)
}

// documentedPolicy returns the policy in Rego that docs/policy.md shows.
func documentedPolicy(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(raw), "\nIn Rego:\n\n")
	var policy strings.Builder
	for line := range strings.Lines(after) {
		text, isCode := strings.CutPrefix(line, "    ")
		if !isCode {
			break
		}
		policy.WriteString(text)
	}
	if !found || policy.Len() == 0 {
		t.Fatal("docs/policy.md shows no policy in Rego")
	}
	return policy.String()
}

func about(users ...id.UserID) []rules.Question {
	out := make([]rules.Question, len(users))
	for i, user := range users {
		out[i] = rules.Question{Direction: rules.SendKey, Account: "@a:corp.example", User: user, Device: rules.DeviceConfirmed, Room: &rules.Room{ID: "!r"}}
	}
	return out
}

// A real OPA decides by the policy that docs/policy.md shows: it allows, it denies with the reason,
// for one and for thousands of questions at once.
func TestOPAWithTheDocumentedPolicy(t *testing.T) {
	t.Parallel()
	at := startOPA(t, documentedPolicy(t))
	p := askOPA(t, at, "/v1/data/e2ee/decisions", pointToken)
	allowed, denied := rules.Answer{Effect: rules.Allow, Rule: Rule}, rules.Answer{Rule: Rule, Reason: "Partners ask first."}
	var users []id.UserID
	var want []rules.Answer
	for i := range 2000 {
		if i%3 == 0 {
			users, want = append(users, id.UserID(fmt.Sprintf("@u%d:partner.example", i))), append(want, denied)
		} else {
			users, want = append(users, id.UserID(fmt.Sprintf("@u%d:corp.example", i))), append(want, allowed)
		}
	}
	for _, n := range []int{1, 2, len(users)} {
		got, err := p.Ask(t.Context(), "D", about(users[:n]...))
		if diff := cmp.Diff(want[:n], got); err != nil || diff != "" {
			t.Errorf("%d questions: %v (-want +got):\n%.500s", n, err, diff)
		}
	}
}

// What a policy says nothing about, and what it fails at, is no answer of a real OPA, so that
// nothing is given; neither is what it says to who has no token.
func TestOPAThatDoesNotDecide(t *testing.T) {
	t.Parallel()
	at := startOPA(t, `package e2ee

partial := [d | some q in input.questions; d := known(q)]

known(q) if q.user == "@b:corp.example"

conflict := [d | some q in input.questions; d := torn(q)]

torn(q) := true if startswith(q.user, "@")

torn(q) := false if endswith(q.user, "corp.example")

allowed if input.questions

fails := [d | some q in input.questions; d := q.user / 0]
`)
	b, c := id.UserID("@b:corp.example"), id.UserID("@c:corp.example")
	for _, one := range []struct {
		name, path, token string
		users             []id.UserID
		want              error
	}{
		{"a question that the policy does not know", "/v1/data/e2ee/partial", pointToken, []id.UserID{b, c}, errShape},
		{"a policy that does not exist", "/v1/data/e2ee/nothing", pointToken, []id.UserID{b}, errShape},
		{"a policy that contradicts itself", "/v1/data/e2ee/conflict", pointToken, []id.UserID{b}, errStatus},
		{"a policy that computes what cannot be", "/v1/data/e2ee/fails", pointToken, []id.UserID{b}, errShape},
		{"one word for all questions", "/v1/data/e2ee/allowed", pointToken, []id.UserID{b}, errShape},
		{"another token", "/v1/data/e2ee/partial", "guess", []id.UserID{b}, errStatus},
		{"a path that is none", "/v1/nothing", pointToken, []id.UserID{b}, errStatus},
	} {
		got, err := askOPA(t, at, one.path, one.token).Ask(t.Context(), "D", about(one.users...))
		if !errors.Is(err, one.want) || got != nil {
			t.Errorf("%s: %v, %v", one.name, got, err)
		}
	}
	got, err := askOPA(t, at, "/v1/data/e2ee/partial", pointToken).Ask(t.Context(), "D", about(b))
	if diff := cmp.Diff([]rules.Answer{{Effect: rules.Allow, Rule: Rule}}, got); err != nil || diff != "" {
		t.Errorf("what it knows: %v (-want +got):\n%s", err, diff)
	}
}
