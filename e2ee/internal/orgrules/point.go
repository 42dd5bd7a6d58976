package orgrules

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"e2ee-proxy/internal/rules"
)

// ErrPoint means that the decision point did not answer.
var ErrPoint = errors.New("the organisation's decision point did not answer")

// Asker is a decision point: see package internal/decisionpoint.
type Asker interface {
	Ask(ctx context.Context, decision string, questions []rules.Question) ([]rules.Answer, error)
}

// PointSettings are those of a decision point.
type PointSettings struct {
	Asker Asker
	// Cache is how long an answer is used again.
	Cache time.Duration
	// AllowOnError leaves what the rules decided when the point does not answer, except where a rule
	// says otherwise.
	AllowOnError bool
	Now          func() time.Time // nil is time.Now
}

// recall is how long an answer is used to decide again about what is on its way, and maxAtOnce how
// many questions are one request.
const (
	recall    = 5 * time.Minute
	maxAtOnce = 10_000
)

// point is a decision point with what it answered. Denied by it is denied; what it allows is as the
// rules decided.
type point struct {
	PointSettings
	asks  *prometheus.CounterVec
	known *lru.Cache[pointKey, pointAnswer]
}

// pointKey is a question with all that the point is told.
type pointKey struct {
	memoKey
	facts string
}

type pointAnswer struct {
	rules.Answer
	at    time.Time
	fault bool // it did not answer, and on_error allows
}

func newPoint(s *PointSettings, r *Rules) (*point, error) {
	known, err := lru.New[pointKey, pointAnswer](maxMemo)
	if err != nil {
		return nil, err
	}
	p := &point{PointSettings: *s, asks: r.asks, known: known}
	if p.Now == nil {
		p.Now = time.Now
	}
	return p, nil
}

func newAsks() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "e2ee_proxy_decision_point_requests_total",
		Help: "Requests to the organisation's decision point: answered, or failed.",
	}, []string{"outcome"})
}

func keyOf(q *rules.Question) pointKey {
	key := pointKey{memoKey: memoKey{direction: q.Direction, device: q.Device, account: q.Account, user: q.User, any: q.AnyRoom}}
	if q.Room == nil {
		return key
	}
	key.inRoom, key.room = true, q.Room.ID
	if s := q.Room.State; s != nil {
		key.facts = fmt.Sprintf("%q %q %q", s.JoinRule, s.HistoryVisibility, s.Aliases)
	}
	if q.Room.MembersKnown {
		key.facts += fmt.Sprintf(" %q", slices.Sorted(slices.Values(q.Room.Servers)))
	}
	return key
}

// narrow replaces the answers that allow by what the point says, if it denies.
func (p *point) narrow(ctx context.Context, log *zerolog.Logger, questions []rules.Question, answers []rules.Answer) error {
	now := p.Now()
	got := make(map[pointKey]pointAnswer)
	var keys []pointKey
	var ask []rules.Question
	for i := range questions {
		if answers[i].Effect != rules.Allow {
			continue
		}
		key := keyOf(&questions[i])
		if _, have := got[key]; have {
			continue
		}
		known, found := p.known.Get(key)
		if !found || known.fault || now.Sub(known.at) >= p.Cache {
			keys, ask, known = append(keys, key), append(ask, questions[i]), pointAnswer{}
		}
		got[key] = known
	}
	failed, err := p.request(ctx, log, keys, ask, got)
	if err != nil {
		return err
	}
	for i := range questions {
		if answers[i].Effect != rules.Allow {
			continue
		}
		key := keyOf(&questions[i])
		said, fault := got[key], failed[key]
		switch {
		case fault != nil && !p.allowsOnError(answers[i].OnError):
			return fault
		case fault != nil:
			p.known.Add(key, pointAnswer{answers[i], now, true})
		case said.Effect != rules.Allow:
			answers[i] = said.Answer
		}
	}
	return nil
}

func (p *point) allowsOnError(said rules.OnError) bool {
	return said == rules.OnErrorAllow || said == rules.OnErrorUnset && p.AllowOnError
}

// request asks the point, in one request unless there are very many questions, and puts what it
// answers into got. failed are those that it did not answer, with why.
func (p *point) request(ctx context.Context, log *zerolog.Logger, keys []pointKey, ask []rules.Question, got map[pointKey]pointAnswer) (failed map[pointKey]error, err error) {
	for len(ask) > 0 {
		n := min(len(ask), maxAtOnce)
		decision, began := strings.ToLower(rand.Text()), p.Now()
		answers, err := p.Asker.Ask(ctx, decision, ask[:n])
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrPoint, ctx.Err())
		}
		if err == nil && len(answers) != n {
			err = fmt.Errorf("%d answers to %d questions", len(answers), n)
		}
		if err != nil {
			p.asks.WithLabelValues("failed").Inc()
			log.Warn().Err(err).Str("decision_id", decision).Int("questions", n).Msg("The organisation's decision point did not answer")
			if failed == nil {
				failed = make(map[pointKey]error)
			}
			for _, key := range keys[:n] {
				failed[key] = fmt.Errorf("%w: %w", ErrPoint, err)
			}
		} else {
			p.asks.WithLabelValues("answered").Inc()
			log.Debug().Str("decision_id", decision).Int("questions", n).Dur("took", p.Now().Sub(began)).Msg("The organisation's decision point was asked")
			for i, key := range keys[:n] {
				got[key] = pointAnswer{Answer: answers[i], at: began}
				p.known.Add(key, got[key])
			}
		}
		keys, ask = keys[n:], ask[n:]
	}
	return failed, nil
}

// again returns what the point said lately of something that the rules let be.
func (p *point) again(q *rules.Question) rules.Answer {
	known, found := p.known.Get(keyOf(q))
	if !found || p.Now().Sub(known.at) >= p.Cache+recall {
		return rules.Answer{Rule: "decision_point", Failed: true}
	}
	return known.Answer
}
