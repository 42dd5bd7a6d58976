// Package rooms has what is known of rooms: whether they are encrypted, who is in them, and
// who may read their history.
//
// It promises:
//   - A room that was encrypted once stays so, for every account and for ever (requirements
//     0.8, 20.3). That a room is plain is never remembered: every send asks (requirement 20.6).
//   - The recipients of an event are complete, or there is an error (requirement 7.6), and
//     nobody whose removal the homeserver has accepted from a client here is one of them
//     (requirement 9.3).
//   - A sync that may be older than what is known makes nobody a recipient.
//   - Whoever may have left is told to the host, so that the room gets another key
//     (requirements 9.3, 9.4).
//
// It must never take stripped state for a fact, shorten a list that is out of date, or
// decide who of the recipients gets a key.
//
// Importer: e2ee.
package rooms
