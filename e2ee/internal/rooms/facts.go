package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/strictjson"
)

// What an organisation's rules ask of rooms. It is read only if a rule asks for it.

const (
	typeJoinRules = "m.room.join_rules"
	typeAlias     = "m.room.canonical_alias"
	// defaultJoinRule is that of a room without the event (spec, room join rules).
	defaultJoinRule = "invite"
	// stateFor is how long what was read of a room's state is used.
	stateFor = 30 * time.Second
	// maxAliases bounds the aliases of a room that count.
	maxAliases = 100
)

// ruleState is what was read of a room's state, and when.
type ruleState struct {
	state *rules.RoomState
	at    time.Time
	shown string // the table's visibility then, which may be wider than the state's: see acceptedVisibilities
}

// Facts returns what rules ask of a room in decisions of a direction. What this account is not
// shown is not known; an error means that it could not be found out now.
func (rt *Table) Facts(ctx context.Context, by *orgrules.Version, roomID id.RoomID, d rules.Direction) (*rules.Room, error) {
	need, must, out := by.Needs(d), by.Must(d), &rules.Room{ID: roomID}
	if need.State {
		state, err := rt.ruleState(ctx, roomID)
		if err != nil && must.State && !hidden(err) {
			return nil, err
		}
		if err != nil {
			rt.forgetState(roomID)
		}
		out.State = state
	}
	if need.Members {
		members, err := rt.memberships(ctx, roomID)
		if err != nil && must.Members && !hidden(err) {
			return nil, err
		}
		if err == nil {
			out.Servers, out.MembersKnown = serversOf(members), true
		}
	}
	return out, nil
}

// forgetState forgets the state of a room that the account is not shown any more.
func (rt *Table) forgetState(roomID id.RoomID) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	if r := rt.known[roomID]; r != nil {
		r.asked = ruleState{}
	}
}

// FactsLocked is Facts from memory. The caller holds mu.
func (rt *Table) FactsLocked(by *orgrules.Version, roomID id.RoomID, d rules.Direction) *rules.Room {
	need, out := by.Needs(d), &rules.Room{ID: roomID}
	r := rt.known[roomID]
	if need.State {
		out.State = r.rulesKnown()
	}
	if need.Members && r != nil && r.members != nil {
		out.Servers, out.MembersKnown = serversOf(r.members), true
	}
	return out
}

// rulesKnown returns what is known of the room's state; nil when that is nothing, or changed.
func (r *room) rulesKnown() *rules.RoomState {
	if r == nil || r.asked.state == nil || r.asked.shown != r.visibility {
		return nil
	}
	return r.asked.state
}

// hidden reports whether the account is not shown what was asked for, and will not be.
func hidden(err error) bool {
	return errors.Is(err, core.ErrNotInRoom) || errors.Is(err, core.ErrNotJoined) ||
		wire.Status(err) == http.StatusForbidden || wire.Status(err) == http.StatusNotFound
}

// ruleState returns what rules ask of a room's state, read if that was not done lately.
func (rt *Table) ruleState(ctx context.Context, roomID id.RoomID) (*rules.RoomState, error) {
	visibility, err := rt.visibility(ctx, roomID)
	if err != nil {
		return nil, err
	}
	now := rt.Env.Now()
	rt.Mu.Lock()
	if r := rt.known[roomID]; r.rulesKnown() != nil && r.asked.state.HistoryVisibility == visibility && now.Sub(r.asked.at) < stateFor {
		defer rt.Mu.Unlock()
		return r.asked.state, nil
	}
	rt.Mu.Unlock()
	state, err := readRuleState(ctx, rt.Call, roomID, visibility)
	if err != nil {
		return nil, err
	}
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if was := r.asked.state; was != nil && was.JoinRule == state.JoinRule && was.HistoryVisibility == state.HistoryVisibility && slices.Equal(was.Aliases, state.Aliases) {
		state = was // who decided by it has nothing to decide again
	}
	r.asked = ruleState{state, now, r.visibility}
	return state, nil
}

// readRuleState requests what rules ask of a room's state.
func readRuleState(ctx context.Context, call Caller, roomID id.RoomID, visibility string) (*rules.RoomState, error) {
	state := &rules.RoomState{HistoryVisibility: visibility, JoinRule: defaultJoinRule}
	content, err := readState(ctx, call, roomID, typeJoinRules)
	if err != nil && !errors.Is(err, core.ErrNoState) {
		return nil, err
	}
	if err == nil {
		state.JoinRule = joinRuleOf(content)
	}
	content, err = readState(ctx, call, roomID, typeAlias)
	if err != nil && !errors.Is(err, core.ErrNoState) {
		return nil, err
	}
	if err == nil {
		state.Aliases = aliasesOf(content)
	}
	return state, nil
}

// ReadFacts returns the users that an event in a room is encrypted for, and what rules ask of the
// room about its keys, as the homeserver shows it now: for somebody whose syncs are not read.
func ReadFacts(ctx context.Context, call Caller, by *orgrules.Version, roomID id.RoomID) ([]id.UserID, *rules.Room, error) {
	content, err := readVisibility(ctx, call, roomID)
	if err != nil {
		return nil, nil, err
	}
	visibility := knownVisibility(visibilityOf(content))
	members, err := readMembers(ctx, call, roomID)
	if err != nil {
		return nil, nil, err
	}
	out := &rules.Room{ID: roomID, Servers: serversOf(members), MembersKnown: true}
	if by.Needs(rules.SendKey).State {
		state, err := readRuleState(ctx, call, roomID, visibility)
		if err != nil && by.Must(rules.SendKey).State && !hidden(err) {
			return nil, nil, err
		}
		if err == nil {
			out.State = state
		}
	}
	return recipients(members, visibility), out, nil
}

// joinRuleOf reads an m.room.join_rules content. One that cannot be read counts as none: nobody
// may join.
func joinRuleOf(content json.RawMessage) string {
	obj, err := strictjson.Parse(content)
	if err != nil {
		return ""
	}
	rule, _ := obj.Text("join_rule")
	return rule
}

// aliasesOf reads an m.room.canonical_alias content.
func aliasesOf(content json.RawMessage) []string {
	var said struct {
		Alias string   `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}
	if strictjson.Unmarshal(content, &said) != nil {
		return nil
	}
	var out []string
	for _, alias := range append([]string{said.Alias}, said.Alt...) {
		if alias != "" && len(alias) <= wire.MaxIDLength && len(out) < maxAliases {
			out = append(out, alias)
		}
	}
	return out
}

// serversOf returns the servers of those who are in a room, or invited to it.
func serversOf(members map[id.UserID]string) []string {
	seen := make(map[string]bool)
	var out []string
	for user, membership := range members {
		if _, server, found := strings.Cut(string(user), ":"); found && present(membership) && !seen[server] {
			seen[server] = true
			out = append(out, server)
		}
	}
	return out
}
