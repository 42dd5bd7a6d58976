// Package core is what all parts of a device share: the engine's environment, the account,
// the device's stored row and lock, and the step, in which every change is staged, stored
// and only then applied to memory.
//
// It promises that memory never has what is not stored, and that a device whose stored
// state is not known stores nothing more ([ErrReload]).
//
// It must never hold the device's lock over the network, and it knows none of the parts.
//
// Importers: e2ee and the packages below e2ee/internal that have state. It imports wire,
// identity (names of records), trustcache and store.
package core
