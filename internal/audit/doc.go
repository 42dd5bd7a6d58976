// Package audit is a log of who was given a key or a secret, who was not, and what
// administrators did, made so that tampering shows: its records are the leaves of a Merkle
// tree (RFC 6962, golang.org/x/mod/sumdb/tlog), and a signed checkpoint of the tree that is
// kept elsewhere fixes every record before it.
//
// It promises:
//   - A record that was changed, dropped, moved or put in is found by [Verify], which names
//     the first one, from the database alone unless whoever did it had the key of the log;
//     then by a checkpoint that was kept elsewhere.
//   - A log that is shorter than a checkpoint, or that leads to another tree, is found by it.
//   - A record has no clear text and no key but public ones, and a session only as a hash.
//   - What was removed because of its age is told apart from what was dropped: the
//     checkpoint under which it was removed is a record of the log.
//
// It must never know how records are stored or sealed, ask anybody for anything, or take a
// record whose bytes it cannot read for one that is in order.
//
// Anybody may import it; it imports nothing of this module.
package audit
