// Package wire has the engine's own calls to the homeserver, their errors, and the rules
// for what may stay in clear in an encrypted event. Its only state is the limit of large
// answers.
//
// It promises:
//   - Every call ends: by its timeout, its context, or the bound of the response. Every
//     error is an [UpstreamError], which contains no request, token or body.
//   - Few large answers are in memory at the same time, and one for each account.
//   - [ClearRelation], [MessageType] and [PlainReaction] refuse what they do not know.
//
// It must never log, try again, or know a device.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package wire
