package config

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// Whatever decides changes the text, and a secret is not in it.
func TestPolicyText(t *testing.T) {
	t.Parallel()
	c := Default()
	base := c.PolicyText()
	for _, want := range []string{"policy.send.mode: enforce\n", "policy.bridges: []\n", "account.require_cross_signing: true\n"} {
		if !strings.Contains(base, want) {
			t.Errorf("%q is missing in:\n%s", want, base)
		}
	}
	for name, change := range map[string]func(*Config){
		"a mode":    func(c *Config) { c.Policy.Send.Mode = Warn },
		"a bridge":  func(c *Config) { c.Policy.Bridges = append(c.Policy.Bridges, "@bridge:x") },
		"a default": func(c *Config) { c.Account.SecretRequests = SecretRequestsIgnore },
		"one account": func(c *Config) {
			c.Accounts = map[id.UserID]Account{"@bot:x": {AcknowledgeUnverifiedChanges: AcknowledgeAutomatic}}
		},
	} {
		c := Default()
		change(&c)
		if c.PolicyText() == base {
			t.Errorf("%s changes nothing", name)
		}
	}
	c.Accounts = map[id.UserID]Account{"@bot:x": {RecoveryKey: secret.NewString("CANARY"), Passphrase: secret.NewString("CANARY")}}
	c.Listen = "0.0.0.0:1"
	if got := c.PolicyText(); got != base {
		t.Errorf("what decides nothing changes:\n%s", got)
	}
}

// Rules decide, by what they say: the same ones, read again, are the same policy.
func TestPolicyTextOfRules(t *testing.T) {
	t.Parallel()
	const text = "homeserver: https://h.example\npolicy: {rules: [{name: a, effect: deny, reason: x, when: {room_public: true}}]}\n"
	one, again := mustLoad(t, text, nil).PolicyText(), mustLoad(t, text, nil).PolicyText()
	other := mustLoad(t, strings.Replace(text, "true", "false", 1), nil).PolicyText()
	if one != again || one == other || !strings.Contains(one, `"room_public":true`) {
		t.Errorf("%s\n%s\n%s", one, again, other)
	}
}

// So do policies in a file, by what the file says.
func TestPolicyTextOfPolicies(t *testing.T) {
	t.Parallel()
	text := func(policies string) string {
		return mustLoad(t, "", nil, "--homeserver", "https://h.example", "--policy-cedar-file", write(t, "p.cedar", policies)).PolicyText()
	}
	const one = "permit(principal, action, resource);"
	first, again, other := text(one), text(one), text(one+"\n// another")
	if first != again || first == other {
		t.Error("the policies' text is not what decides")
	}
}
