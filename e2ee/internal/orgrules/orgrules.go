package orgrules

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"e2ee-proxy/internal/rules"
)

// Rules are the rules in force, which may be replaced by others.
type Rules struct {
	log     zerolog.Logger
	decided *prometheus.CounterVec
	differ  *prometheus.CounterVec
	asks    *prometheus.CounterVec
	now     atomic.Pointer[Version]
}

// New returns rules in force, see [Rules.Set], and registers their metrics; a nil reg registers
// none. What no request asks for is logged to log.
func New(ruling Ruling, policy string, log zerolog.Logger, reg prometheus.Registerer) (*Rules, error) {
	r := &Rules{log: log, decided: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "e2ee_proxy_rule_decisions_total",
		Help: "Keys, messages and secrets about which the organisation's rules were asked: by rule, none if no rule was about it.",
	}, []string{"direction", "rule", "outcome"}), differ: newDifferences(), asks: newAsks()}
	if err := r.Set(ruling, policy); err != nil || reg == nil {
		return r, err
	}
	for _, one := range []prometheus.Collector{r.decided, r.differ, r.asks} {
		if err := reg.Register(one); err != nil {
			return nil, fmt.Errorf("register the rules' metrics: %w", err)
		}
	}
	return r, nil
}

// Ruling is what is put in force. The zero value narrows nothing.
type Ruling struct {
	// Rules decide, Tried are compared with them; either may be nil.
	Rules, Tried *rules.Set
	// Point, nil for none, is asked about keys and secrets that the rules let be.
	Point *PointSettings
}

// Set puts rules in force. policy is the version of the policy that they are part of, for the
// audit log. Not for use by several at a time.
func (r *Rules) Set(ruling Ruling, policy string) error {
	set, tried := ruling.Rules, ruling.Tried
	was, v := r.now.Load(), &Version{of: r, policy: policy, set: set, decide: narrowNothing}
	var err error
	switch {
	case set.Len() == 0:
	case was != nil && set.Hash() == was.Hash():
		v.set, v.decide = was.set, was.decide // with what it remembers
	default:
		v.decide, err = decider(set)
	}
	switch {
	case err != nil, tried.Len() == 0:
	case was != nil && was.trial != nil && was.trial.set.Hash() == tried.Hash() && v.set == was.set:
		v.trial = was.trial
	default:
		v.trial, err = newTrial(tried, r.differ)
	}
	if err == nil && ruling.Point != nil {
		v.point, err = newPoint(ruling.Point, r)
	}
	if err != nil {
		return fmt.Errorf("make room for decisions: %w", err)
	}
	r.now.Store(v)
	return nil
}

// Now returns the rules in force now. Whoever decides about several things, or in several steps,
// calls it once: what is returned does not change. Nil Rules have a nil Version.
func (r *Rules) Now() *Version {
	if r == nil {
		return nil
	}
	return r.now.Load()
}

// Version are the rules that are, or were, in force at some time. Another one is another pointer.
// A nil Version has none.
type Version struct {
	of     *Rules
	policy string
	set    *rules.Set
	decide Decide // by the rules, without the point
	trial  *trial // nil when no rules are tried
	point  *point // nil when there is no decision point
}

func (v *Version) rules() *rules.Set {
	if v == nil {
		return nil
	}
	return v.set
}

// Any reports whether there are rules, in force or on trial, or a decision point.
func (v *Version) Any() bool {
	return v != nil && (v.set.Len() > 0 || v.trial != nil || v.point != nil)
}

// Policy returns the version of the policy that the rules are part of.
func (v *Version) Policy() string {
	if v == nil {
		return ""
	}
	return v.policy
}

// Hash names the rules in force; empty when there are none.
func (v *Version) Hash() string { return v.rules().Hash() }

// Must returns what must be known of a room for decisions of a direction.
func (v *Version) Must(d rules.Direction) rules.Needs { return v.rules().Needs(d) }

// AsksRooms reports whether decisions of a direction depend on the room, and whether only those do
// that are tried.
func (v *Version) AsksRooms(d rules.Direction) (asks, tried bool) {
	asks = v.rules().AsksRooms(d) || v.asksPoint(d)
	tried = v != nil && !asks && v.trial != nil && v.trial.set.AsksRooms(d)
	return asks || tried, tried
}

// Needs returns what is asked of a room for decisions of a direction, by the rules on trial too.
func (v *Version) Needs(d rules.Direction) rules.Needs {
	need := v.Must(d)
	if v.asksPoint(d) { // it is told what is known
		need.State = true
	}
	if v == nil || v.trial == nil {
		return need
	}
	more := v.trial.set.Needs(d)
	return rules.Needs{State: need.State || more.State, Members: need.Members || more.Members}
}

// A Decide answers a question.
type Decide func(q *rules.Question) rules.Answer

// Again returns what decides without counting or logging: for a decision that was made before. It
// makes no request: what the decision point was not asked lately is denied.
func (v *Version) Again() Decide {
	if v == nil {
		return narrowNothing
	}
	if v.point == nil {
		return v.decide
	}
	return func(q *rules.Question) rules.Answer {
		a := v.decide(q)
		if a.Effect != rules.Allow || !v.asksPoint(q.Direction) {
			return a
		}
		return v.point.again(q)
	}
}

// AllAgain is [Version.Again] for several questions. It returns no error.
func (v *Version) AllAgain(questions []rules.Question) ([]rules.Answer, error) {
	out, again := make([]rules.Answer, len(questions)), v.Again()
	for i := range questions {
		out[i] = again(&questions[i])
	}
	return out, nil
}

// AskMessages returns what decides about messages, and counts and logs each decision, under the ID
// of the request of ctx. The decision point is not asked about them.
func (v *Version) AskMessages(ctx context.Context) Decide {
	if !v.Any() {
		return narrowNothing
	}
	log := v.logger(ctx)
	return func(q *rules.Question) rules.Answer {
		a := v.decide(q)
		v.told(log, q, a, a)
		return a
	}
}

// Ask asks several questions at once, and counts and logs each answer. An error means that the
// decision point did not answer, so that nothing of it may be given now. No lock may be held.
func (v *Version) Ask(ctx context.Context, questions []rules.Question) ([]rules.Answer, error) {
	out := make([]rules.Answer, len(questions))
	if !v.Any() {
		for i := range out {
			out[i] = rules.Answer{Effect: rules.Allow}
		}
		return out, nil
	}
	for i := range questions {
		out[i] = v.decide(&questions[i])
	}
	ruled, log := out, v.logger(ctx)
	if v.point != nil {
		var err error
		ruled = slices.Clone(out)
		if err = v.point.narrow(ctx, log, questions, out); err != nil {
			return nil, err
		}
	}
	for i := range questions {
		v.told(log, &questions[i], ruled[i], out[i])
	}
	return out, nil
}

// Known is Ask without counting or logging.
func (v *Version) Known(ctx context.Context, questions []rules.Question) ([]rules.Answer, error) {
	if v == nil || v.point == nil {
		return v.AllAgain(questions)
	}
	out := make([]rules.Answer, len(questions))
	for i := range questions {
		out[i] = v.decide(&questions[i])
	}
	return out, v.point.narrow(ctx, v.logger(ctx), questions, out)
}

func (v *Version) asksPoint(d rules.Direction) bool {
	return v != nil && v.point != nil && (d == rules.SendKey || d == rules.Secret)
}

// logger returns the one of a request, or that of what no request asks for.
func (v *Version) logger(ctx context.Context) *zerolog.Logger {
	log := zerolog.Ctx(ctx)
	if log.GetLevel() == zerolog.Disabled {
		return &v.of.log
	}
	return log
}

// told counts and logs an answer. ruled is what the rules said of it.
func (v *Version) told(log *zerolog.Logger, q *rules.Question, ruled, a rules.Answer) {
	v.of.count(q, a)
	note(log, q, a)
	if v.trial != nil {
		v.trial.compare(log, q, ruled)
	}
}

// Reason names the rule that denied something, in the audit log.
func Reason(a rules.Answer) string { return "rule:" + a.Rule }

func narrowNothing(*rules.Question) rules.Answer { return rules.Answer{Effect: rules.Allow} }

// outcomeFailed is the outcome of a rule that asked for what is not known.
const outcomeFailed = "failed"

func (r *Rules) count(q *rules.Question, a rules.Answer) {
	outcome := a.Effect.String()
	if a.Failed {
		outcome = outcomeFailed
	}
	r.decided.WithLabelValues(q.Direction.String(), named(a.Rule), outcome).Inc()
}

// named is a rule as a label: none where none decided.
func named(rule string) string {
	if rule == "" {
		return "none"
	}
	return rule
}

func note(log *zerolog.Logger, q *rules.Question, a rules.Answer) {
	event := log.Debug()
	if !event.Enabled() {
		return
	}
	event.Stringer("direction", q.Direction).Stringer("account", q.Account).Stringer("user", q.User).Stringer("device", q.Device)
	if q.Room != nil {
		event.Stringer("room", q.Room.ID)
	}
	event.Str("rule", a.Rule).Stringer("effect", a.Effect).Bool("failed", a.Failed).Msg("The organisation's rules were asked")
}
