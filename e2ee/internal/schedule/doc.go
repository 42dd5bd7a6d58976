// Package schedule decides when a device does what it does by itself: whether it is awake
// and its sync loop runs, when its upkeep is due, and when what failed is tried again.
//
// It promises:
//   - A device is in the queue for upkeep once at most, and what is requested while a visit
//     is in progress is done at its end.
//   - At most one sync of the engine's own and one upkeep of a device run at a time.
//
// It must never make a request, nor know what upkeep consists of.
//
// Importer: e2ee.
package schedule
