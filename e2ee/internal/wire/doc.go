// Package wire is the engine's side of the homeserver: its own calls, the errors that they
// return, and what of an event may stand in clear. It has no state but the places for large
// answers.
//
// It promises:
//   - Every call ends: by its timeout, by its caller's context, or by the bound of what is
//     read. Every error of one is an [UpstreamError], which carries no request, token or body.
//   - Few large answers are in memory at the same time, and one for each account.
//   - [ClearRelation], [MessageType] and [PlainReaction] refuse what they do not know.
//
// It must never log, try again, or know a device.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package wire
