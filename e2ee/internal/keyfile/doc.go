// Package keyfile is the file format for room keys that clients exchange (requirement 16.10):
// it encrypts and decrypts files, and knows nothing of what a key is.
//
// It promises:
//   - [Open] returns a file only if all of it is authentic. The cost is bounded: the file's
//     size, and the rounds of its key derivation.
//   - No file is held in memory, however large it is, and the size of its entries is
//     bounded.
//
// It must never store anything, or quote a file in an error.
//
// Importer: e2ee.
package keyfile
