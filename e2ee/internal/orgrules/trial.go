package orgrules

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// maxDifferences is how many differences are logged; all are counted.
const maxDifferences = 1000

// trial are rules that are tried: they decide nothing.
type trial struct {
	set    *rules.Set
	differ *prometheus.CounterVec

	mu   sync.Mutex
	seen map[difference]struct{} // those that were logged
}

// difference is something about which the rules on trial decide otherwise.
type difference struct {
	direction     rules.Direction
	account, user id.UserID
	room          id.RoomID
	rule          string
	effect        rules.Effect
}

func newTrial(set *rules.Set) *trial {
	return &trial{set: set, seen: make(map[difference]struct{}), differ: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "e2ee_proxy_rule_trial_differences_total",
		Help: "Decisions that would be others with the rules on trial: by the rule that decided, the one that would, and what it would say.",
	}, []string{"direction", "rule", "trial_rule", "trial_outcome"})}
}

// compare counts a decision about which the rules on trial say something else, and logs it once.
func (t *trial) compare(log *zerolog.Logger, q *rules.Question, now rules.Answer) {
	would := t.set.Decide(q)
	if would.Effect == now.Effect {
		return
	}
	t.differ.WithLabelValues(q.Direction.String(), named(now.Rule), named(would.Rule), would.Effect.String()).Inc()
	d := difference{direction: q.Direction, account: q.Account, user: q.User, rule: would.Rule, effect: would.Effect}
	if q.Room != nil {
		d.room = q.Room.ID
	}
	if !t.first(d) {
		return
	}
	log.Info().Stringer("direction", d.direction).Stringer("account", d.account).Stringer("user", d.user).Stringer("room", d.room).
		Str("rule", now.Rule).Str("trial_rule", would.Rule).Stringer("trial_effect", would.Effect).Bool("failed", would.Failed).
		Msg("The rules on trial decide otherwise")
}

// first reports whether a difference was not met before, and is to be logged.
func (t *trial) first(d difference) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, met := t.seen[d]; met || len(t.seen) >= maxDifferences {
		return false
	}
	t.seen[d] = struct{}{}
	return true
}
