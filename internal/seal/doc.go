// Package seal encrypts values for storage so that each opens only with its key and only in
// the place it was sealed for.
//
// It promises that a sealed value which was changed, moved to another row, column, table,
// account or database, or opened with another key is refused, and that opening arbitrary
// bytes never panics. It uses XChaCha20-Poly1305 with a random nonce.
//
// It must never return a part of a clear text that was not authenticated, or put a clear
// text or a key into an error. Anybody may import it; it imports nothing of this module.
package seal
