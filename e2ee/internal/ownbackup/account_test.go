package ownbackup

import (
	"testing"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
)

// A backup that was found before something changed is not used: whoever found it must look
// again, or keys would be written to one that is not trusted any more (requirement 16.1).
func TestBackupFoundBeforeAChange(t *testing.T) {
	t.Parallel()
	found := &keybackup.Target{Version: "1"}
	for name, change := range map[string]func(*Account){
		"nothing":      nil,
		"forgotten":    (*Account).Forget,
		"judged again": func(a *Account) { a.SetStanding(keybackup.StandingForeign) },
	} {
		a := NewAccount(&core.Account{Env: &core.Env{}})
		if target, _ := a.known(); target != nil || a.Standing() != keybackup.StandingUnknown {
			t.Fatalf("a new account knows of %v, %d", target, a.Standing())
		}
		_, looked := a.known()
		if change != nil {
			change(&a)
		}
		if kept := a.keep(found, looked); kept != (change == nil) {
			t.Errorf("%s: kept is %t", name, kept)
		}
		target, looked := a.known()
		if (target == found) != (change == nil) {
			t.Errorf("%s: known is %v", name, target)
		}
		if !a.keep(found, looked) {
			t.Errorf("%s: what was found after it is not kept", name)
		}
		if target, _ := a.known(); target != found {
			t.Errorf("%s: known is %v after another look", name, target)
		}
		if a.Forget(); a.keep(found, looked) {
			t.Errorf("%s: a look counts twice", name)
		}
	}
}
