// Package controlroom answers for the control room: what clients ask about a room that exists
// only between them and the proxy, and what a person writes there.
//
// It promises:
//   - No request that names the room, or who is in it, goes to the homeserver.
//   - Every endpoint about a room answers for it as a homeserver does.
//   - Of what a person writes only commands are kept. A recovery key, a password, a passphrase
//     and whatever was not understood are neither stored nor shown again.
//   - Nothing is changed that cannot be undone before the person has said yes to it.
//   - Programs that answer everything are not answered for ever.
//   - Who may try something how often is what the control API allows, together with it.
//
// It must never show one user's room to another, decide what a command does to keys (the engine
// does), or speak in words that a person would have to look up.
//
// Importer: interceptors.
package controlroom
