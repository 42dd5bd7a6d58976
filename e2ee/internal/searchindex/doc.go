// Package searchindex finds the messages of an account by their words, without keeping a
// word of them: keyed hashes of words are stored, sealed, and beside them which events they
// stand in.
//
// It promises:
//   - What is stored opens only with the account's key: without it nothing is seen but how
//     much there is and when it was written.
//   - An index that was damaged, or whose key is another, is begun anew and never believed;
//     it says so until it has been filled again.
//   - It is bounded: the oldest messages go first. What was redacted, or edited away, goes
//     at once, also from the disk.
//   - A batch of events takes one write, whatever its size.
//
// It must never keep or log a clear text, decide who may see a message (a hit is shown only
// after the homeserver gave the event out again, and it was opened and judged like any
// other), or fail a client's request because the index is broken.
//
// Importers: e2ee and e2ee/internal/roomevents.
package searchindex
