package interceptors

import "e2ee-proxy/interceptors/internal/rewrite"

// Where events stand in the answers about one room.

// Names of the handlers that [Handlers] returns for them.
const (
	Messages        = "messages"          // GET rooms/{roomId}/messages
	EventContext    = "context"           // GET rooms/{roomId}/context/{eventId}
	GetEvent        = "event"             // GET rooms/{roomId}/event/{eventId}
	Relations       = "relations"         // GET rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]
	Threads         = "threads"           // GET rooms/{roomId}/threads
	RoomInitialSync = "room.initial_sync" // GET rooms/{roomId}/initialSync
	Members         = "members"           // GET rooms/{roomId}/members
	Hierarchy       = "hierarchy"         // GET rooms/{roomId}/hierarchy
)

// pageEnd is the tag of the token of the page behind this one.
const pageEnd = 1

// pageTokens are where the token of the page behind this one stands, by handler; the next
// request has it as from.
var pageTokens = map[string]string{Messages: "end", Relations: "next_batch", Threads: "next_batch"}

func roomShapes() map[string]rewrite.Shape {
	all := map[string]rewrite.Shape{
		Messages: inRoom(
			rewrite.Place{Path: "chunk/*", Kind: rewrite.Timeline, Position: rewrite.Paged},
			rewrite.Place{Path: "state/*", Kind: rewrite.State},
		),
		EventContext: inRoom(
			rewrite.Place{Path: "events_before/*", Kind: rewrite.Timeline, Position: rewrite.Before},
			rewrite.Place{Path: "event", Kind: rewrite.Timeline, Position: rewrite.At, Asked: true},
			rewrite.Place{Path: "events_after/*", Kind: rewrite.Timeline, Position: rewrite.After},
			rewrite.Place{Path: "state/*", Kind: rewrite.State},
		),
		GetEvent: inRoom(rewrite.Place{Path: "", Kind: rewrite.Timeline, Asked: true}),
		Relations: inRoom(
			rewrite.Place{Path: "chunk/*", Kind: rewrite.Timeline},
			rewrite.Place{Path: "original_event", Kind: rewrite.Timeline, Asked: true},
		),
		Threads: inRoom(rewrite.Place{Path: "chunk/*", Kind: rewrite.Timeline}),
		RoomInitialSync: inRoom(
			rewrite.Place{Path: "messages/chunk/*", Kind: rewrite.Timeline, Position: rewrite.After},
			rewrite.Place{Path: "state/*", Kind: rewrite.State},
			rewrite.Place{Path: "account_data/*"}, rewrite.Place{Path: "presence/*"}, rewrite.Place{Path: "receipts/*"},
		),
		Members:   inRoom(rewrite.Place{Path: "chunk/*", Kind: rewrite.State}),
		Hierarchy: inRoom(rewrite.Place{Path: "rooms/*/children_state/*", Kind: rewrite.State}),
	}
	for name, token := range pageTokens {
		shape := all[name]
		shape.Values = []rewrite.Value{{Path: token, Tag: pageEnd, Keep: true}}
		all[name] = shape
	}
	return all
}

// inRoom returns the shape of an answer about the room in the request's path.
func inRoom(places ...rewrite.Place) rewrite.Shape {
	return rewrite.Shape{Room: rewrite.RoomOfPath, Places: places}
}

// paged reports whether the history in an answer goes on in the direction of the query's dir,
// from the query's from to the answer's end.
func paged(s *rewrite.Shape) bool {
	for i := range s.Places {
		if s.Places[i].Position == rewrite.Paged {
			return true
		}
	}
	return false
}
