// Package keyfile is the file format for room keys that clients exchange (requirement 16.10):
// it encrypts and decrypts files, and knows nothing of what a key is.
//
// It promises:
//   - [Open] returns a file only when the whole of it is authentic, and what that may cost is
//     bounded: its size, and the work of deriving its key.
//   - No file is held in memory, however large it is, and none of its entries is larger than
//     a bound.
//
// It must never store anything, or say what a file holds in an error.
//
// Importer: e2ee.
package keyfile
