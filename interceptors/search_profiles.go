package interceptors

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// maxProfiles is for how many people around a result the homeserver is asked one by one, if
// it did not say how they call themselves.
const maxProfiles = 8

func atMost(events []jsontext.Value, n int) []jsontext.Value {
	if events == nil {
		return []jsontext.Value{}
	}
	return events[:min(n, len(events))]
}

// profiles finds out how those who sent an event, and what stands around it, call themselves:
// by the memberships that came with it, or else by those of the room's state.
func (s *indexSearch) profiles(ctx context.Context, room id.RoomID, a *eventAround) error {
	known := make(map[string]map[string]string)
	for _, raw := range a.State {
		event, err := strictjson.Parse(raw)
		if err == nil && event.TextOrEmpty("type") == typeMember {
			known[event.TextOrEmpty("state_key")] = profileOf(event.Object("content"))
		}
	}
	a.profiles = make(map[string]map[string]string)
	asked := 0
	for _, raw := range slices.Concat([]jsontext.Value{a.Event}, a.Before, a.After) {
		event, err := strictjson.Parse(raw)
		sender := event.TextOrEmpty("sender")
		if err != nil || !exchange.ValidUser(sender) || a.profiles[sender] != nil {
			continue
		}
		if known[sender] == nil && asked < maxProfiles {
			asked++
			if known[sender], err = s.profile(ctx, room, sender); err != nil {
				return err
			}
		}
		if known[sender] != nil {
			a.profiles[sender] = known[sender]
		}
	}
	return nil
}

// profile asks how somebody calls themselves in a room; nil if the homeserver does not say.
func (s *indexSearch) profile(ctx context.Context, room id.RoomID, user string) (map[string]string, error) {
	raw, _, err := ask(ctx, s.x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}", Query: exchange.IdentityQuery(s.x.Request.URL.Query()),
		Params: map[string]string{"roomId": room.String(), "eventType": typeMember, "stateKey": user},
	})
	if err != nil {
		return nil, err
	}
	content, err := strictjson.Parse(raw)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // it does not say
	}
	return profileOf(content), nil
}

// profileOf returns how a membership says that somebody is called.
func profileOf(content strictjson.Object) map[string]string {
	profile := make(map[string]string)
	for _, name := range []string{"displayname", "avatar_url"} {
		if text, ok := content.Text(name); ok {
			profile[name] = text
		}
	}
	return profile
}
