package interceptors

import "e2ee-proxy/interceptors/internal/rewrite"

// Where events stand in what a search has found.
func searchShape() rewrite.Shape {
	const found = "search_categories/room_events"
	const results = found + "/results/*"
	return rewrite.Shape{Room: rewrite.RoomOfEvent, Entries: []string{results}, Places: []rewrite.Place{
		{Path: results + "/context/events_before/*", Kind: rewrite.Timeline, Position: rewrite.Before},
		{Path: results + "/result", Kind: rewrite.Timeline, Position: rewrite.At},
		{Path: results + "/context/events_after/*", Kind: rewrite.Timeline, Position: rewrite.After},
		{Path: found + "/state/{}/*", Kind: rewrite.State},
	}}
}
