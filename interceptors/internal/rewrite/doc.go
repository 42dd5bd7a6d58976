// Package rewrite changes the events in an answer of the homeserver into those that a client is
// shown, for every endpoint that returns some (requirement 19.10).
//
// Where events stand in a body is data, a [Shape]; each handler has its own. A body passes
// twice. [Rewriter.Read] keeps it while it finds the events, and writes down where something
// may have to change. [Body.Relay] writes it into the answer: it asks the engine for the events
// there, many at a time, and puts what it says in their place. What else a handler needs of a
// body it gets by [Hooks], and adds by [Output.Added].
//
// It promises:
//   - Members that only the proxy may add are removed from what the homeserver sent, wherever
//     in a shape they are and wherever in an event another event can be. What imitates a
//     notice of the proxy is removed.
//   - Encrypted events, and in encrypted rooms those that should have been, are what the
//     engine says of them, with the events bundled under unsigned (requirement 19.4). An event
//     that cannot be judged is shown only if nobody can take it for something that it is not.
//   - What a client's filter leaves out of clear events is left out.
//   - Everything else comes byte for byte, and memory does not grow with the body.
//
// It must never decide trust or decrypt, touch content that a user wrote, whatever names it
// uses, or know an endpoint.
//
// Importer: interceptors.
package rewrite
