// Package native holds the policy for clients with keys of their own: whose keys the proxy
// does not hold, but whose requests pass here.
//
// It promises:
//   - Such a client is shown no device of others, and gets nothing for any device, that its
//     owner's current identity has not signed, except where the account made an exception.
//   - What it sends is decided by what the homeserver answered at most a minute ago.
//   - A device that gets no room key because of that is told so, once for each session.
//
// It must never change what a client verifies, send something in a client's name but
// m.room_key.withheld, or delay an answer by it.
//
// Importer: e2ee.
package native
