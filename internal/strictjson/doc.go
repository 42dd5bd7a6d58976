// Package strictjson reads JSON objects from untrusted senders, and writes them again.
//
// It promises:
//   - What [Parse] and [Unmarshal] accept is read alike by every reader: no name occurs
//     twice at any depth, names are case-sensitive, text is valid UTF-8, and nothing
//     follows the object (attack A26).
//   - An [Object] keeps its order, its unknown members, and every value byte for byte.
//   - Values are parts of the text that was read; nothing is copied before it is written.
//
// It must never quote its input in an error, accept a part of a malformed text, or know
// anything of Matrix.
//
// Anybody may import it; it imports nothing of this module but internal/secret.
package strictjson
