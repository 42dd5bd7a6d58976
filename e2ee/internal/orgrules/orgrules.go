package orgrules

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// Rules are the rules in force. A nil value is none.
type Rules struct {
	set     *rules.Set
	decide  Decide
	trial   *trial // nil when no rules are tried
	log     zerolog.Logger
	decided *prometheus.CounterVec
}

// New returns the rules in force with those that are tried beside them, nil when there are none
// of either, and registers their metrics; a nil reg registers none. What no request asks for is
// logged to log.
func New(set, tried *rules.Set, log zerolog.Logger, reg prometheus.Registerer) (*Rules, error) {
	if set.Len()+tried.Len() == 0 {
		return nil, nil
	}
	decide, err := decider(set)
	if err != nil {
		return nil, fmt.Errorf("make room for decisions: %w", err)
	}
	r := &Rules{set: set, decide: decide, log: log, decided: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "e2ee_proxy_rule_decisions_total",
		Help: "Keys, messages and secrets about which the organisation's rules were asked: by rule, none if no rule was about it.",
	}, []string{"direction", "rule", "outcome"})}
	metrics := []prometheus.Collector{r.decided}
	if tried.Len() > 0 {
		r.trial = newTrial(tried)
		metrics = append(metrics, r.trial.differ)
	}
	if reg == nil {
		return r, nil
	}
	for _, one := range metrics {
		if err := reg.Register(one); err != nil {
			return nil, fmt.Errorf("register the rules' metrics: %w", err)
		}
	}
	return r, nil
}

// Any reports whether there are rules, in force or on trial.
func (r *Rules) Any() bool { return r != nil }

// Hash names the rules in force; empty when there are none.
func (r *Rules) Hash() string {
	if r == nil {
		return ""
	}
	return r.set.Hash()
}

// Must returns what must be known of a room for decisions of a direction.
func (r *Rules) Must(d rules.Direction) rules.Needs {
	if r == nil {
		return rules.Needs{}
	}
	return r.set.Needs(d)
}

// Needs returns what is asked of a room for decisions of a direction, by the rules on trial too.
func (r *Rules) Needs(d rules.Direction) rules.Needs {
	need := r.Must(d)
	if r == nil || r.trial == nil {
		return need
	}
	more := r.trial.set.Needs(d)
	return rules.Needs{State: need.State || more.State, Members: need.Members || more.Members}
}

// A Decide answers a question.
type Decide func(q *rules.Question) rules.Answer

// Again returns what decides without counting or logging: for a decision that was made before.
func (r *Rules) Again() Decide {
	if r == nil {
		return narrowNothing
	}
	return r.decide
}

// Asked returns what decides, and counts and logs each decision, under the ID of the request of
// ctx.
func (r *Rules) Asked(ctx context.Context) Decide {
	if r == nil {
		return narrowNothing
	}
	log := zerolog.Ctx(ctx)
	if log.GetLevel() == zerolog.Disabled {
		log = &r.log
	}
	return func(q *rules.Question) rules.Answer {
		a := r.decide(q)
		r.count(q, a)
		note(log, q, a)
		if r.trial != nil {
			r.trial.compare(log, q, a)
		}
		return a
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

// KeyQuestion asks about a room key for a device.
func KeyQuestion(account id.UserID, u *trustcache.User, d *trustcache.Device, room *rules.Room) rules.Question {
	return rules.Question{Direction: rules.SendKey, Account: account, User: d.UserID, Device: trusted(u, d), Room: room}
}

// SecretQuestion asks about a secret for another device of the account's own.
func SecretQuestion(own *trustcache.User, d *trustcache.Device) rules.Question {
	return rules.Question{Direction: rules.Secret, Account: own.UserID, User: own.UserID, Device: trusted(own, d)}
}

// MessageQuestion asks about a decrypted message, as it is judged.
func MessageQuestion(in *trustcache.JudgeInput, room *rules.Room) rules.Question {
	return rules.Question{Direction: rules.ShowMessage, Account: in.Own, User: in.Sender, Device: sentBy(in), Room: room}
}

// ClearQuestion asks about a message that came in clear. Nothing proves who sent it.
func ClearQuestion(account, sender id.UserID, room *rules.Room) rules.Question {
	return rules.Question{Direction: rules.ShowMessage, Account: account, User: sender, Device: rules.DeviceUnproven, Room: room}
}
