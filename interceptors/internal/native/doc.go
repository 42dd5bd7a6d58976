// Package native holds the bodies that clients with keys of their own exchange with the
// homeserver about devices: answers to /keys/query, claims of one-time keys, and what is sent
// to devices. The engine decides; here entries are found and taken out.
//
// It promises:
//   - What is left of a body is left byte for byte.
//   - A body that can be read in more than one way is refused, in either direction.
//   - What is held of a body was reserved first.
//
// It must never decide about a device, or read what is encrypted.
//
// Importer: interceptors.
package native
