package orgrules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// Policies in Cedar are tried: where they would decide otherwise is counted and listed, a bounded
// number of times, and what they ask for and is not known decides nothing.
func TestPoliciesOnTrial(t *testing.T) {
	t.Parallel()
	tried, problems := new(rules.Set).WithCedar("p.cedar", []byte(`
permit(principal, action, resource);
@id("evil") forbid(principal, action, resource) when { principal.host == "evil.example" };
@id("public") forbid(principal, action == Action::"send_key", resource) when { resource.public };`), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	reg := prometheus.NewRegistry()
	r := ruled(t, nil, tried, zerolog.Nop(), reg)
	if !r.Now().Needs(rules.SendKey).State || r.Now().Must(rules.SendKey).Any() {
		t.Error("what is tried is asked for, and must not be known")
	}
	ask := r.Now().AskMessages(t.Context())
	private := &rules.Room{ID: "!a", State: &rules.RoomState{JoinRule: "invite"}}
	for i := range 3 {
		for _, user := range []id.UserID{bob, "@eve:evil.example"} {
			q := rules.Question{Direction: rules.SendKey, Account: alice, User: user, Device: rules.DeviceConfirmed, Room: private}
			if got := ask(&q); got.Effect != rules.Allow || got.Rule != "" {
				t.Errorf("%d, %s: %+v", i, user, got)
			}
		}
	}
	unknown := rules.Question{Direction: rules.SendKey, Account: alice, User: bob, Device: rules.DeviceConfirmed, Room: &rules.Room{ID: "!b"}}
	if got := ask(&unknown); got.Effect != rules.Allow {
		t.Errorf("%+v", got)
	}
	const want = `
# HELP e2ee_proxy_rule_trial_differences_total Decisions that would be others with the rules on trial: by the rule that decided, the one that would, and what it would say.
# TYPE e2ee_proxy_rule_trial_differences_total counter
e2ee_proxy_rule_trial_differences_total{direction="send_key",rule="none",trial_outcome="deny",trial_rule="cedar:evil"} 3
e2ee_proxy_rule_trial_differences_total{direction="send_key",rule="none",trial_outcome="deny",trial_rule="cedar:public"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "e2ee_proxy_rule_trial_differences_total"); err != nil {
		t.Error(err)
	}
	all := r.Now().Differences()
	if len(all) != 2 || all[0].Trial != "cedar:evil" || all[0].Count != 3 || all[0].User != "@eve:evil.example" || all[0].Room != "!a" || all[1].Trial != "cedar:public" {
		t.Errorf("listed: %+v", all)
	}
	for i := range 2 * maxDifferences {
		ask(&rules.Question{Direction: rules.ShowMessage, Account: alice, User: id.UserID(fmt.Sprintf("@u%d:evil.example", i)), Room: private})
	}
	if n := len(r.Now().Differences()); n != maxDifferences {
		t.Errorf("%d are listed", n)
	}
	// A reload of something else keeps the list, one of the rules begins another.
	if err := r.Set(Ruling{Tried: tried}, "v2"); err != nil || len(r.Now().Differences()) != maxDifferences || r.Now().Policy() != "v2" {
		t.Errorf("another version of the policy lists %d, %v", len(r.Now().Differences()), err)
	}
	set, problems := rules.Compile([]rules.Rule{{Name: "a", Effect: "allow"}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if err := r.Set(Ruling{Rules: set, Tried: tried}, "v3"); err != nil || len(r.Now().Differences()) != 0 {
		t.Errorf("with other rules %d are listed, %v", len(r.Now().Differences()), err)
	}
}
