// Package attachment has encrypted files as such: their keys, how they are encrypted and read,
// and where they stand in events (Client-Server API, "Sending encrypted attachments").
//
// It promises:
//   - Files stream in both directions, and nothing of them is held.
//   - A key and a counter are used for one file. What the key of a file is, is never printed.
//   - Where a file stands in an event is data, the same for what is sent and what is shown; all
//     else of an event stays as it was.
//
// It must never give out clear text that was not checked against the file's hash, ask anything
// of anybody, or know an account.
//
// Importers: e2ee, the packages below it, and interceptors.
package attachment
