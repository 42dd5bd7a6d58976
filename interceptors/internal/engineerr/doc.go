// Package engineerr turns the errors of the engine into those that clients are shown. It is
// the one place where that is done: what happened, then what to do, for people who may know
// nothing of encryption.
//
// It promises:
//   - An error that is for the client already stays as it is, and an unknown one too: it is
//     rendered as an internal error.
//   - What cannot be found out about a room's encryption becomes a refusal.
//
// It must never put the text of a cause into what a client is shown, ask anybody, or write a
// response.
//
// Importers: the packages of interceptors.
package engineerr
