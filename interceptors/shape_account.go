package interceptors

import "e2ee-proxy/interceptors/internal/rewrite"

// Where events stand in the answers about all rooms of an account, beside /sync and search.

// Names of the handlers that [Handlers] returns for them.
const (
	Events        = "events"        // GET events
	EventsGet     = "events.get"    // GET events/{eventId}
	InitialSync   = "initial_sync"  // GET initialSync
	Notifications = "notifications" // GET notifications
)

func accountShapes() map[string]rewrite.Shape {
	return map[string]rewrite.Shape{
		Events:    {Room: rewrite.RoomOfEvent, Places: []rewrite.Place{{Path: "chunk/*", Kind: rewrite.Mixed}}},
		EventsGet: {Room: rewrite.RoomOfEvent, Places: []rewrite.Place{{Path: "", Kind: rewrite.Timeline, Asked: true}}},
		InitialSync: {Room: rewrite.RoomOfEntry, Entries: []string{"rooms/*"}, Places: []rewrite.Place{
			{Path: "rooms/*/messages/chunk/*", Kind: rewrite.Timeline, Position: rewrite.After},
			{Path: "rooms/*/state/*", Kind: rewrite.State},
			{Path: "rooms/*/invite", Kind: rewrite.State},
			{Path: "rooms/*/account_data/*"}, {Path: "account_data/*"}, {Path: "presence/*"},
		}},
		Notifications: {Room: rewrite.RoomOfEntry, Entries: []string{"notifications/*"}, Places: []rewrite.Place{
			{Path: "notifications/*/event", Kind: rewrite.Timeline},
		}},
	}
}
