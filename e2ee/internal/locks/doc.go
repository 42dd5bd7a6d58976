// Package locks has mutexes and turns that have a place in one order, so that nobody waits
// for somebody who waits for them.
//
// It promises:
//   - A [Mutex] and [Turns] tell an [Order], where there is one, of what is taken and given
//     back: tests find out whoever takes them in another order than that of their ranks.
//   - [Turns] may be held while the homeserver is asked: they block nothing but the same key,
//     and whoever waits for one gives up when its context ends.
//
// It must never know what a lock guards, or start anything.
//
// Importers: e2ee and the packages below e2ee/internal. It imports the standard library only.
package locks
