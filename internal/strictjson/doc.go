// Package strictjson reads JSON objects that anybody can have sent, and writes them again.
//
// It promises:
//   - What [Parse] and [Unmarshal] accept every reader reads alike: no name stands twice at
//     any depth, names count as they are written, text is valid UTF-8, and nothing follows
//     the object (attack A26).
//   - An [Object] keeps what it does not know: its order, its unknown members, and every
//     value byte for byte.
//   - Values are parts of the text that was read; nothing is copied before it is written.
//
// It must never quote its input in an error, read what it does not accept halfway, or know
// anything of Matrix.
//
// Anybody may import it; it imports nothing of this module but internal/secret.
package strictjson
