package main

import (
	"os"
	"path/filepath"
	"testing"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/rules"
)

// What is tried stands for what is in force of its kind, and the rest stays.
func TestWhatIsOnTrial(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "p.cedar")
	if err := os.WriteFile(file, []byte(`@id("p") permit(principal, action, resource);`), 0o600); err != nil {
		t.Fatal(err)
	}
	var policies config.Document
	if err := policies.UnmarshalText([]byte(file)); err != nil {
		t.Fatal(err)
	}
	rule := func(name string) []rules.Rule { return []rules.Rule{{Name: name, Effect: "allow"}} }
	for name, test := range map[string]struct {
		rules, tried       []rules.Rule
		cedar, triedCedar  bool
		inForce, wantTried string
	}{
		"nothing":                  {},
		"nothing on trial":         {rules: rule("a"), cedar: true, inForce: "a cedar:p "},
		"rules":                    {rules: rule("a"), tried: rule("b"), inForce: "a ", wantTried: "b "},
		"rules, beside policies":   {rules: rule("a"), tried: rule("b"), cedar: true, inForce: "a cedar:p ", wantTried: "b cedar:p "},
		"policies, beside rules":   {rules: rule("a"), triedCedar: true, inForce: "a ", wantTried: "a cedar:p "},
		"policies, and both tried": {tried: rule("b"), triedCedar: true, wantTried: "b cedar:p "},
	} {
		cfg := config.Default()
		cfg.Policy.Rules, cfg.Policy.TrialRules = test.rules, test.tried
		if test.cedar {
			cfg.Policy.CedarFile = policies
		}
		if test.triedCedar {
			cfg.Policy.TrialCedarFile = policies
		}
		got, err := rulesIn(&cfg)
		if err != nil || names(got.Rules) != test.inForce || names(got.Tried) != test.wantTried {
			t.Errorf("%s: in force %q, on trial %q, %v", name, names(got.Rules), names(got.Tried), err)
		}
	}
}

func names(s *rules.Set) (out string) {
	for _, name := range s.Names() {
		out += name + " "
	}
	return out
}
