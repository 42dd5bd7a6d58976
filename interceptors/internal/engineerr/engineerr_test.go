package engineerr

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// The words a person reads when somebody's identity was reset (requirement 1.12, 26.1).
func TestIdentityChangedText(t *testing.T) {
	t.Parallel()
	const bob = id.UserID("@bob:hs.example")
	got := For(&e2ee.IdentityChangedError{Users: []id.UserID{"@c:x", bob}, Lost: []id.UserID{bob}})
	e, ok := errors.AsType[*apierr.Error](got)
	if !ok || e.Status != http.StatusForbidden || e.ErrCode != apierr.CodeIdentityChanged {
		t.Fatalf("got %v", got)
	}
	fields, err := json.Marshal(e.Fields)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"users":["@bob:hs.example","@c:x"],"verification_lost":["@bob:hs.example"]}`
	if diff := cmp.Diff(want, string(fields)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	text := e.Public()
	for _, part := range []string{"@bob:hs.example", "@c:x", "digital identity", "not sent", "acknowledge", "withdraw_verification"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
	for _, part := range []string{"cross-sign", "master key"} {
		if strings.Contains(text, part) {
			t.Errorf("%q says %q to a person", text, part)
		}
	}
}

// The words a person reads when a rule of the organisation keeps a message from a room.
func TestDeniedByRuleText(t *testing.T) {
	t.Parallel()
	many := make([]id.UserID, 150)
	for i := range many {
		many[i] = id.UserID(fmt.Sprintf("@u%03d:hs", i))
	}
	e, ok := errors.AsType[*apierr.Error](For(&e2ee.RuledError{Users: many, Rule: "partners", Reason: "Partners have no keys of public rooms."}))
	if !ok || e.Status != http.StatusForbidden || e.ErrCode != apierr.CodeDeniedByRule {
		t.Fatalf("got %v", e)
	}
	if users, _ := e.Fields["users"].([]id.UserID); len(users) != 100 {
		t.Errorf("%d users are listed", len(users))
	}
	for _, part := range []string{"@u000:hs", "and 145 more", "not sent", "Partners have no keys of public rooms."} {
		if !strings.Contains(e.Public(), part) {
			t.Errorf("%q does not say %q", e.Public(), part)
		}
	}
}
