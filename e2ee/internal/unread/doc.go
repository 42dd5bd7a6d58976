// Package unread corrects the numbers of unread messages of encrypted rooms. The homeserver
// counts ciphertext: it does not see who is mentioned, and counts edits and reactions as
// messages. So the account's push rules are applied to the clear event and to the encrypted one;
// where they differ, the difference is added to the homeserver's number until the event is read.
//
// It promises:
//   - What cannot be decrypted, and what no client of ours was shown, counts as the homeserver
//     counts it.
//   - An event counts once, whichever devices of the account see it, and in which order.
//   - A difference is stored before a client is told of it, and goes with the receipt that
//     covers the event, its redaction, or the account.
//   - It is bounded for each room and in memory, and takes a query and a write for a batch.
//
// It must never keep a clear text, invent a number where the homeserver gave none, or hold a
// lock during a request or a query.
//
// Importer: e2ee.
package unread
