// Package locks has mutexes and keyed locks (turns) with ranks in one order, so that there
// is no deadlock.
//
// It promises:
//   - A [Mutex] and [Turns] report to an [Order], if there is one, when they are locked and
//     unlocked: tests detect locking against the order of ranks.
//   - [Turns] may be held during a request to the homeserver: a turn blocks only its own
//     key, and waiting for it ends with the context.
//
// It must never know what a lock guards, or start anything.
//
// Importers: e2ee and the packages below e2ee/internal. It imports the standard library only.
package locks
