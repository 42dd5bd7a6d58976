// Package rediscache keeps short-lived answers in Redis for all replicas of one database, and
// tells the replicas what no longer holds.
//
// It promises that what Redis says is never believed for itself:
//
//   - An entry is sealed under a key that is derived from the database's, and opens only for the
//     kind, name and generation that it was put for, with the same homeserver. What was changed,
//     cut, swapped, made by others or taken from another database is a miss.
//   - It says when it was made and how long it holds, inside what is sealed. An entry that is too
//     old, or made in the future by this process's clock, is a miss, however long Redis keeps it; so is
//     every entry while the clocks of replicas differ, which they see in what they say.
//   - It is believed only by a process that has listened without interruption since before the
//     entry was made, and that has not heard of its name being dropped. So what was dropped does not
//     come back, whoever puts it back: a look-up that began before, or somebody who kept a copy.
//
// What is dropped is told to all replicas over a connection of its own that is always read. Each
// process sends a beat through Redis to itself: if none comes, it takes the connection for dead,
// tells its listeners to forget what they rely on it for, and finds nothing until it hears again.
//
// It must never be where a decision about keys is made, a lock, or the only place of anything:
// Redis may be empty, gone or somebody else's at any time, which makes everything slower and
// nothing wrong. No call fails or takes longer than a short timeout; after a few failures none is
// tried until Redis answers again. Names of users, tokens and rooms are not readable in Redis.
//
// Attempts that are limited are counted in it too ([Cache.TakePlace]), beside what each process counts by
// itself: Redis can only refuse more, and what it refuses with is sealed and over when the attempts are.
//
// A nil *Cache is one without Redis: it finds nothing and tells nobody. Anybody may import it.
package rediscache
