package orgrules

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	alice = id.UserID("@alice:corp.example")
	bob   = id.UserID("@bob:corp.example")
)

// user is bob with one device, in a state of his identity.
func user(pin trustcache.Pin, signed bool, override trustcache.Override) *trustcache.User {
	return &trustcache.User{
		UserID: bob, Knowledge: trustcache.KnowledgeFresh, Pin: pin, Identity: trustcache.Identity{Master: pin.Current},
		Devices: []trustcache.Device{{UserID: bob, DeviceID: "BOB", Curve25519: "curve", Ed25519: "ed", Signed: signed, Override: override}},
	}
}

func pinned(verified bool) trustcache.Pin {
	return trustcache.Pin{Current: "M", PinnedMaster: "M", Verified: verified, WasVerified: verified}
}

// How far a device is trusted that would be given a key.
func TestTrusted(t *testing.T) {
	t.Parallel()
	changed := trustcache.Pin{Current: "N", PinnedMaster: "M"}
	for name, test := range map[string]struct {
		user *trustcache.User
		want rules.Device
	}{
		"signed":                 {user(pinned(false), true, trustcache.OverrideNone), rules.DeviceConfirmed},
		"signed, owner verified": {user(pinned(true), true, trustcache.OverrideNone), rules.DeviceVerified},
		"signed by an identity that is not pinned": {user(changed, true, trustcache.OverrideNone), rules.DeviceUnconfirmed},
		"signed without an identity":               {user(trustcache.Pin{}, true, trustcache.OverrideNone), rules.DeviceUnconfirmed},
		"not signed":                               {user(pinned(true), false, trustcache.OverrideNone), rules.DeviceUnconfirmed},
		"exception":                                {user(pinned(true), false, trustcache.OverrideTrusted), rules.DeviceException},
		"nothing known of the owner":               {&trustcache.User{UserID: bob, Devices: user(pinned(true), true, 0).Devices}, rules.DeviceUnknown},
		"somebody else's":                          {&trustcache.User{UserID: alice, Knowledge: trustcache.KnowledgeFresh, Pin: pinned(true), Devices: user(pinned(true), true, 0).Devices}, rules.DeviceUnknown},
	} {
		if got := trusted(test.user, &test.user.Devices[0]); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// How far the device is trusted that a message came from. It is never more than is proven.
func TestSentBy(t *testing.T) {
	t.Parallel()
	owner := trustcache.Owner{UserID: bob, DeviceID: "BOB", Curve25519: "curve", Ed25519: "ed"}
	signed := owner
	signed.Signed, signed.Accepted, signed.Master = true, true, "M"
	attested, nobody := signed, signed
	attested.Attested, nobody.UserID = true, ""
	for name, test := range map[string]struct {
		in   trustcache.JudgeInput
		want rules.Device
	}{
		"signed":                 {trustcache.JudgeInput{Owner: signed, OwnerUser: user(pinned(false), true, 0)}, rules.DeviceConfirmed},
		"signed, owner verified": {trustcache.JudgeInput{Owner: signed, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceVerified},
		"signed meanwhile":       {trustcache.JudgeInput{Owner: owner, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceVerified},
		"by an earlier identity": {trustcache.JudgeInput{Owner: signed, OwnerUser: user(trustcache.Pin{Current: "N", PinnedMaster: "N", Verified: true, WasVerified: true}, false, 0)}, rules.DeviceConfirmed},
		"identity changed":       {trustcache.JudgeInput{Owner: signed, OwnerUser: user(trustcache.Pin{Current: "N", PinnedMaster: "M"}, true, 0)}, rules.DeviceUnconfirmed},
		"owner is gone":          {trustcache.JudgeInput{Owner: signed}, rules.DeviceConfirmed},
		"nothing known":          {trustcache.JudgeInput{Owner: owner}, rules.DeviceUnconfirmed},
		"not signed":             {trustcache.JudgeInput{Owner: owner, OwnerUser: user(pinned(true), false, 0)}, rules.DeviceUnconfirmed},
		"exception":              {trustcache.JudgeInput{Owner: owner, OwnerUser: user(pinned(true), false, trustcache.OverrideTrusted)}, rules.DeviceException},
		"another's key":          {trustcache.JudgeInput{Sender: alice, Owner: signed, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceUnproven},
		"nobody's key":           {trustcache.JudgeInput{Owner: nobody, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceUnproven},
		"backup":                 {trustcache.JudgeInput{Source: store.SourceBackup, Owner: signed, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceUnproven},
		"attested backup":        {trustcache.JudgeInput{Source: store.SourceBackup, Owner: attested, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceVerified},
		"forwarded":              {trustcache.JudgeInput{Source: store.SourceForwarded, Owner: attested, OwnerUser: user(pinned(true), true, 0)}, rules.DeviceUnproven},
		"own device":             {trustcache.JudgeInput{Own: bob, OwnKey: "curve", Owner: owner}, rules.DeviceVerified},
	} {
		if test.in.Source == "" {
			test.in.Source = store.SourceDirect
		}
		if test.in.Sender == "" {
			test.in.Sender = bob
		}
		if got := sentBy(&test.in); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// ruled returns rules that are in force.
func ruled(t testing.TB, set, tried *rules.Set, log zerolog.Logger, reg prometheus.Registerer) *Rules {
	t.Helper()
	r, err := New(Ruling{Rules: set, Tried: tried}, "v1", log, reg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Every decision is logged under the ID of its request, and counted by its rule. One that is made
// again is neither.
func TestDecisionsAreLoggedAndCounted(t *testing.T) {
	t.Parallel()
	set, problems := rules.Compile([]rules.Rule{
		{Name: "public", Effect: "deny", Reason: "Not in public.", When: rules.When{JoinRule: []string{"public"}}},
		{Name: "bob", Effect: "deny", Reason: "Not bob.", When: rules.When{User: []string{string(bob)}}},
	}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var outside, request bytes.Buffer
	reg := prometheus.NewRegistry()
	r := ruled(t, set, nil, zerolog.New(&outside), reg).Now()
	ctx := zerolog.New(&request).With().Str("request_id", "R1").Logger().WithContext(t.Context())
	u := user(pinned(false), true, 0)
	known := KeyQuestion(alice, u, &u.Devices[0], &rules.Room{ID: "!room", State: &rules.RoomState{JoinRule: "invite"}})
	unknown := KeyQuestion(alice, u, &u.Devices[0], &rules.Room{ID: "!room"})
	other := ClearQuestion(alice, alice, &rules.Room{ID: "!room", State: &rules.RoomState{}})
	ask := func(q *rules.Question) rules.Answer {
		t.Helper()
		got, err := r.Ask(ctx, []rules.Question{*q})
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	for _, q := range []rules.Question{known, unknown, other} {
		if got, again := ask(&q), r.Again()(&q); got != again {
			t.Errorf("%+v: %+v, and again %+v", q, got, again)
		}
	}
	lines := strings.Split(strings.TrimSpace(request.String()), "\n")
	if len(lines) != 3 || outside.Len() != 0 {
		t.Fatalf("logged %q and %q", lines, outside.String())
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]any{
		"level": "debug", "request_id": "R1", "direction": "send_key", "account": "@alice:corp.example", "user": "@bob:corp.example",
		"device": "confirmed", "room": "!room", "rule": "bob", "effect": "deny", "failed": false,
	} {
		if line[field] != want {
			t.Errorf("%s is %v, want %v", field, line[field], want)
		}
	}
	const want = `
# HELP e2ee_proxy_rule_decisions_total Keys, messages and secrets about which the organisation's rules were asked: by rule, none if no rule was about it.
# TYPE e2ee_proxy_rule_decisions_total counter
e2ee_proxy_rule_decisions_total{direction="send_key",outcome="deny",rule="bob"} 1
e2ee_proxy_rule_decisions_total{direction="send_key",outcome="failed",rule="public"} 1
e2ee_proxy_rule_decisions_total{direction="show_message",outcome="allow",rule="none"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if _, err := r.Ask(context.Background(), []rules.Question{known}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(outside.String(), `"rule":"bob"`) {
		t.Errorf("what no request asks for is logged as %q", outside.String())
	}
}

// Without rules nothing is asked, and nothing narrowed.
func TestNoRules(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	r := ruled(t, nil, nil, zerolog.Nop(), reg).Now()
	if r.Any() || r.Hash() != "" || r.Needs(rules.SendKey).Any() {
		t.Errorf("there are rules: %v", r)
	}
	q := rules.Question{Direction: rules.SendKey}
	if got, err := r.Ask(t.Context(), []rules.Question{q}); err != nil || got[0].Effect != rules.Allow || r.Again()(&q).Effect != rules.Allow {
		t.Error("something is denied")
	}
	if got, err := reg.Gather(); err != nil || len(got) != 0 {
		t.Errorf("there are metrics: %v, %v", got, err)
	}
}

// Decisions that are dear are remembered, and never for another question.
func TestMemo(t *testing.T) {
	t.Parallel()
	set, problems := new(rules.Set).WithCedar("p.cedar", []byte(`
permit(principal, action, resource);
forbid(principal, action == Action::"send_key", resource) when { resource.public || principal.host == "evil.example" };
forbid(principal, action, resource) when { context.account.host == "evil.example" || context.device == "unproven" };`), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	r := ruled(t, set, nil, zerolog.Nop(), nil).Now()
	private, public := &rules.RoomState{JoinRule: "invite"}, &rules.RoomState{JoinRule: "public"}
	var questions []rules.Question
	for _, direction := range []rules.Direction{rules.SendKey, rules.ShowMessage, rules.Secret} {
		for _, user := range []id.UserID{alice, "@eve:evil.example"} {
			for _, device := range []rules.Device{rules.DeviceConfirmed, rules.DeviceUnproven} {
				for _, room := range []*rules.Room{nil, {ID: "!a"}, {ID: "!a", State: private}, {ID: "!a", State: public}, {ID: "!b", State: private}, {ID: "!b", MembersKnown: true}} {
					questions = append(questions, rules.Question{Direction: direction, Account: alice, User: user, Device: device, Room: room},
						rules.Question{Direction: direction, Account: user, User: alice, Device: device, Room: room})
				}
			}
		}
	}
	for range 2 {
		for _, q := range questions {
			if got, want := r.Again()(&q), set.Decide(&q); got != want {
				t.Errorf("%+v: %+v, want %+v", q, got, want)
			}
		}
	}
}

func BenchmarkMemo(b *testing.B) {
	set, problems := new(rules.Set).WithCedar("p.cedar", []byte("permit(principal, action, resource);"), nil)
	if len(problems) > 0 {
		b.Fatal(problems)
	}
	r := ruled(b, set, nil, zerolog.Nop(), nil).Now()
	q := rules.Question{Direction: rules.SendKey, Account: alice, User: bob, Device: rules.DeviceConfirmed, Room: &rules.Room{ID: "!a"}}
	b.ReportAllocs()
	for b.Loop() {
		r.Again()(&q)
	}
}
