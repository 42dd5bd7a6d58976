// Package ownership holds which accounts this process has, of a cluster of several.
//
// An account belongs to one process at a time, its owner (package store). It is claimed before
// anything of it is opened or written, so that what is in memory of it is what is stored. When
// it is handed over, all of it leaves memory first, and who comes next reads it anew. A process
// that has lost an account without knowing it stores nothing, and so encrypts nothing; what it
// has in memory is dropped once it finds that out.
//
// It promises:
//   - What is in memory of an account was read while the account was this process's.
//   - An account is released only when nothing of it is loaded any more, and nothing is loaded
//     until it was claimed again.
//   - The accounts of a process that has ended are claimed whether or not a client asks for
//     them, and idle ones are given to a process that has few.
//
// A process alone owns every account, and all of this costs it nothing.
//
// It must never write for an account, or know what is in one.
//
// Importer: e2ee.
package ownership
