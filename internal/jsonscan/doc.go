// Package jsonscan reads JSON bodies of any size in one pass, reports the values at
// chosen places with their byte offsets, and applies edits at such offsets while the
// body streams through a second time.
//
// It promises:
//   - [Scan] accepts exactly the grammar of RFC 8259 and reads from an io.Reader
//     through a window; what it holds is the window, the value being captured (at most
//     Options.MaxCapture) and one bit for each level of nesting.
//   - What is in the window as a whole and written as usual is read in a quick way. All else, and
//     all errors, are the slow way's, which reports the same byte by byte (FuzzQuick).
//   - It never recurses but into a record's few levels: hostile nesting costs bits, not stack, and ends at [MaxDepth].
//   - An [Editor] given the offsets that Scan reported for a valid body writes valid JSON.
//
// It tolerates duplicate names and invalid UTF-8 inside strings: whoever interprets a
// value parses it strictly. It must never hold a whole body, quote input in an error,
// or know anything of Matrix.
//
// Anybody may import it; it imports the standard library only.
package jsonscan
