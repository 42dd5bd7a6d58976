package orgrules

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// maxDifferences is how many differences are logged and listed; all are counted.
const maxDifferences = 1000

// trial are rules that are tried: they decide nothing.
type trial struct {
	set    *rules.Set
	decide Decide
	differ *prometheus.CounterVec

	mu   sync.Mutex
	seen map[differs]*Difference // those that were logged
}

// differs is something about which the rules on trial decide otherwise.
type differs struct {
	direction     rules.Direction
	account, user id.UserID
	room          id.RoomID
	rule          string
	effect        rules.Effect
}

// Difference is something about which the rules on trial decide otherwise, since a time.
type Difference struct {
	Direction string    `json:"direction"`
	Account   id.UserID `json:"account"`
	User      id.UserID `json:"user"`
	// Room is empty for what is about no room, or any.
	Room id.RoomID `json:"room,omitempty"`
	// Rule decides now, and Trial would: with TrialEffect.
	Rule        string    `json:"rule"`
	Trial       string    `json:"trial_rule"`
	TrialEffect string    `json:"trial_outcome"`
	Count       int       `json:"count"`
	Since       time.Time `json:"since"`
}

func newTrial(set *rules.Set, differ *prometheus.CounterVec) (*trial, error) {
	decide, err := decider(set)
	return &trial{set: set, decide: decide, differ: differ, seen: make(map[differs]*Difference)}, err
}

func newDifferences() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "e2ee_proxy_rule_trial_differences_total",
		Help: "Decisions that would be others with the rules on trial: by the rule that decided, the one that would, and what it would say.",
	}, []string{"direction", "rule", "trial_rule", "trial_outcome"})
}

// compare counts a decision about which the rules on trial say something else, and logs it once.
func (t *trial) compare(log *zerolog.Logger, q *rules.Question, now rules.Answer) {
	would := t.decide(q)
	if would.Effect == now.Effect {
		return
	}
	t.differ.WithLabelValues(q.Direction.String(), named(now.Rule), named(would.Rule), would.Effect.String()).Inc()
	d := differs{direction: q.Direction, account: q.Account, user: q.User, rule: would.Rule, effect: would.Effect}
	if q.Room != nil {
		d.room = q.Room.ID
	}
	if !t.first(d, now) {
		return
	}
	log.Info().Stringer("direction", d.direction).Stringer("account", d.account).Stringer("user", d.user).Stringer("room", d.room).
		Str("rule", now.Rule).Str("trial_rule", would.Rule).Stringer("trial_effect", would.Effect).Bool("failed", would.Failed).
		Msg("The rules on trial decide otherwise")
}

// first reports whether a difference was not met before, and is to be logged.
func (t *trial) first(d differs, now rules.Answer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if met := t.seen[d]; met != nil {
		met.Count++
		return false
	}
	if len(t.seen) >= maxDifferences {
		return false
	}
	t.seen[d] = &Difference{
		Direction: d.direction.String(), Account: d.account, User: d.user, Room: d.room,
		Rule: named(now.Rule), Trial: named(d.rule), TrialEffect: d.effect.String(), Count: 1, Since: time.Now().UTC(),
	}
	return true
}

// Differences returns those that were met by this process, the most frequent first.
func (v *Version) Differences() []Difference {
	if v == nil || v.trial == nil {
		return nil
	}
	v.trial.mu.Lock()
	defer v.trial.mu.Unlock()
	out := make([]Difference, 0, len(v.trial.seen))
	for _, d := range v.trial.seen {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Difference) int {
		return cmp.Or(b.Count-a.Count, a.Since.Compare(b.Since), cmp.Compare(a.Account, b.Account), cmp.Compare(a.User, b.User), cmp.Compare(a.Room, b.Room))
	})
	return out
}
