// Package files has the encrypted files that an account knows, by the URIs by which its own
// clients name them.
//
// It promises:
//   - A file is found by the URI that the account's clients were given, and by no other
//     account's. What a URI means never changes: one that comes in an event is made of the
//     file's place, key, counter and hash together, so that one file under two keys has two
//     (matrix-spec#2324), and nobody gives another meaning to a URI that exists.
//   - With media.links, what a client is shown is a link: for this device and file, for two days
//     at most, and nobody can make one.
//   - What is stored of a file is sealed. A file that nobody names is forgotten.
//   - Events of a batch cost one query at most, and one write when files are new.
//
// It must never let a client have a file that its account was not shown.
//
// Importers: e2ee and roomevents.
package files
