package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/secret"
)

// Every kind of setting is seen to differ, secrets too, and what is taken over is no more than
// what was named.
func TestChanged(t *testing.T) {
	t.Parallel()
	before := mustLoad(t, "homeserver: https://h\naccounts: {'@a:h': {passphrase: one}}\n", nil)
	after := mustLoad(t, "homeserver: https://h\nlog: {level: debug}\npolicy: {send: {mode: warn, enforce_from: 2026-12-01}, bridges: ['@b:h']}\n"+
		"limits: {upload: 1MiB}\ntrusted_proxies: [10.0.0.1]\naccounts: {'@a:h': {passphrase: two}}\nmaster_key: {key: "+testKey+"}\n", nil)
	want := []string{"master_key.key", "trusted_proxies", "limits.upload", "log.level", "accounts", "policy.send.mode", "policy.send.enforce_from", "policy.bridges"}
	got := Changed(before, after)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what changed (-want +got):\n%s", diff)
	}
	if same := Changed(before, mustLoad(t, "homeserver: https://h\naccounts: {'@a:h': {passphrase: one}}\n", nil)); len(same) != 0 {
		t.Errorf("%s differ between two readings of one file", strings.Join(same, ", "))
	}
	mixed := before.With(after, []string{"log.level", "accounts"})
	if mixed.Log.Level != LogDebug || mixed.Accounts["@a:h"].Passphrase != secret.NewString("two") || mixed.Limits.Upload != before.Limits.Upload || mixed.Policy.Send != before.Policy.Send {
		t.Errorf("taken over: %+v", mixed)
	}
	if before.Log.Level != LogInfo || before.Accounts["@a:h"].Passphrase != secret.NewString("one") {
		t.Error("what was in use before has changed")
	}
	if diff := cmp.Diff([]string{"log.level", "accounts"}, Changed(before, mixed)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
