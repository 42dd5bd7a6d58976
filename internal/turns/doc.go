// Package turns lets one caller at a time do something under a name.
//
// It promises that a turn ends the wait of one other caller, that waiting ends with the context, and
// that nothing is kept of a name that nobody has or waits for.
//
// It must never know what is done, or say in which order callers have their turn.
//
// Importers: e2ee/internal/locks, and interceptors with its packages.
package turns
