package decisionpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

const (
	// maxAnswer bounds an answer: so much, and so much more for each question.
	maxAnswer, maxPerQuestion = 64 << 10, 1 << 10
	// maxReason bounds the reasons that people are shown.
	maxReason = 200
)

// Rule names the point where a rule is named.
const Rule = "decision_point"

// reasonDenied is the reason where the point gives none.
const reasonDenied = "The rules of your organisation do not permit it."

// Errors for answers that are none.
var (
	errStatus = errors.New("the decision point did not answer with 200")
	errShape  = errors.New("the decision point's answer has not the form that is expected")
)

// Point is a decision point. Create it with [New].
type Point struct {
	url     string
	client  *http.Client
	token   secret.String
	timeout time.Duration
}

// New returns the point at a URL. It uses the transport, follows no redirects, and gives up after
// timeout. token may be empty.
func New(at *url.URL, transport http.RoundTripper, token secret.String, timeout time.Duration) *Point {
	return &Point{at.String(), &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, token, timeout}
}

// asked is one question as the point sees it.
type asked struct {
	Direction string    `json:"direction"`
	Account   id.UserID `json:"account"`
	User      id.UserID `json:"user"`
	Server    string    `json:"server"`
	Device    string    `json:"device"`
	Room      *room     `json:"room,omitempty"`
	AnyRoom   bool      `json:"any_room,omitempty"`
}

type room struct {
	ID                id.RoomID `json:"id"`
	JoinRule          string    `json:"join_rule,omitempty"`
	HistoryVisibility string    `json:"history_visibility,omitempty"`
	Aliases           []string  `json:"aliases,omitempty"`
	MemberServers     []string  `json:"member_servers,omitempty"`
}

func questionOf(q *rules.Question) asked {
	_, server, _ := strings.Cut(string(q.User), ":")
	out := asked{Direction: q.Direction.String(), Account: q.Account, User: q.User, Server: server, Device: q.Device.String(), AnyRoom: q.AnyRoom}
	if q.Room == nil {
		return out
	}
	out.Room = &room{ID: q.Room.ID}
	if s := q.Room.State; s != nil {
		out.Room.JoinRule, out.Room.HistoryVisibility, out.Room.Aliases = s.JoinRule, s.HistoryVisibility, s.Aliases
	}
	if q.Room.MembersKnown {
		out.Room.MemberServers = q.Room.Servers
	}
	return out
}

// Ask asks all questions with one request. decision names it in the point's logs and here.
func (p *Point) Ask(ctx context.Context, decision string, questions []rules.Question) ([]rules.Answer, error) {
	type input struct {
		DecisionID string  `json:"decision_id"`
		Questions  []asked `json:"questions"`
	}
	in := struct {
		Input input `json:"input"`
	}{input{decision, make([]asked, len(questions))}}
	for i := range questions {
		in.Input.Questions[i] = questionOf(&questions[i])
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("ask the decision point: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	answer, err := p.post(ctx, body, int64(maxAnswer+maxPerQuestion*len(questions)))
	if err != nil {
		return nil, err
	}
	return read(answer, len(questions))
}

func (p *Point) post(ctx context.Context, body []byte, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the decision point: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if !p.token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+p.token.Reveal())
	}
	resp, err := p.client.Do(req)
	if err != nil {
		var failed *url.Error // its text has the URL
		if errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, fmt.Errorf("ask the decision point: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read, or is not wanted
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %d", errStatus, resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("read what the decision point answers: %w", err)
	}
	if int64(len(raw)) > most {
		return nil, fmt.Errorf("%w: it is too long", errShape)
	}
	return raw, nil
}

// read reads an answer: {"result": [...]}, with true, false or {"allow": …, "reason": "…"} for each
// question. OPA leaves the result out when a policy says nothing.
func read(raw []byte, want int) ([]rules.Answer, error) {
	top, err := strictjson.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no JSON object", errShape)
	}
	var list []json.RawMessage
	if result := top.Get("result"); result == nil || json.Unmarshal(result, &list) != nil || list == nil {
		return nil, fmt.Errorf("%w: result is no list", errShape)
	}
	if len(list) != want {
		return nil, fmt.Errorf("%w: %d answers to %d questions", errShape, len(list), want)
	}
	out := make([]rules.Answer, want)
	for i := range list {
		if out[i], err = one(list[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func one(raw json.RawMessage) (rules.Answer, error) {
	switch string(raw) {
	case "true":
		return rules.Answer{Effect: rules.Allow, Rule: Rule}, nil
	case "false":
		return rules.Answer{Rule: Rule, Reason: reasonDenied}, nil
	}
	obj, err := strictjson.Parse(raw)
	if err != nil {
		return rules.Answer{}, fmt.Errorf("%w: an answer is neither true, false nor an object", errShape)
	}
	out, said := rules.Answer{Rule: Rule}, false
	for _, m := range obj {
		switch {
		case m.Name == "allow" && string(m.Value) == "true":
			out.Effect, said = rules.Allow, true
		case m.Name == "allow" && string(m.Value) == "false":
			said = true
		case m.Name == "reason" && json.Unmarshal(m.Value, &out.Reason) == nil:
		default:
			return rules.Answer{}, fmt.Errorf("%w: an answer has a member that is unknown or of the wrong kind", errShape)
		}
	}
	if !said {
		return rules.Answer{}, fmt.Errorf("%w: an answer does not say allow", errShape)
	}
	if out.Reason == "" || utf8.RuneCountInString(out.Reason) > maxReason || strings.ContainsFunc(out.Reason, unicode.IsControl) {
		out.Reason = reasonDenied
	}
	if out.Effect == rules.Allow {
		out.Reason = ""
	}
	return out, nil
}
