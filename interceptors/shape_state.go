package interceptors

import "e2ee-proxy/interceptors/internal/rewrite"

// Where events stand in the answers about a room's state, see stateread.go.
func stateShapes() map[string]rewrite.Shape {
	return map[string]rewrite.Shape{
		StateList: inRoom(rewrite.Place{Path: "*", Kind: rewrite.State}),
		StateGet:  inRoom(rewrite.Place{Path: "", Kind: rewrite.State}),
	}
}
