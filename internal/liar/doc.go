// Package liar is a homeserver in this process for tests that need one that lies. It keeps
// accounts, devices, keys, rooms, to-device messages and key backups in memory and serves
// them over the Client-Server API. A test can look at every request it got, and through
// hooks forge, delay, drop, reorder or fail any answer.
//
// It promises to behave as an honest server would as long as no hook changes that, and to
// record every request before anything else looks at it, unknown ones too.
//
// It must never check what a client has to check (signatures, power levels, history
// visibility): clients must be safe with a server that does not.
//
// Importers: tests.
package liar
