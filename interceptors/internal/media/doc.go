// Package media carries files between clients and the homeserver, for devices whose encryption
// the proxy does: what a client uploads is encrypted on the way, and what others have encrypted
// is in clear when a client downloads it.
//
// It promises:
//   - Files stream: memory does not grow with their size, in either direction.
//   - Not one byte of a file goes to a client before all of it was checked against its hash.
//     Until then it is kept as it came, encrypted.
//   - The homeserver gets neither names nor types of what is uploaded, and nothing in clear
//     until somebody names a file where everybody may read it; then a copy is made, once.
//   - A file in clear that a client names in an encrypted room is encrypted first, once.
//   - What a client shows of a file in a browser cannot run there.
//
// It must never give a file to somebody whose account does not know it, or remember clear text.
//
// Importer: interceptors.
package media
