// Package terminal is how a command talks to a person: what is shown and asked, in a width
// that fits, with colours where there is somebody to see them.
//
// It promises:
//   - What is asked and how far something is goes to standard error, so that standard output
//     has the result only.
//   - A secret is read without being shown, and is no argument of a program.
//   - Who is asked can leave: asking ends with its context, and the terminal is as it was.
//   - Without a terminal nothing is coloured, nothing moves and nobody is asked.
//   - Text from elsewhere moves no cursor and starts no colour.
//
// It must never decide what is said.
//
// Importer: cmd/e2ee-proxy.
package terminal
