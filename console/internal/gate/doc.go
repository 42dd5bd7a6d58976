// Package gate finds out who sits at the console: signing in, sessions, and whether a form was
// sent by a page of ours.
//
// It promises:
//   - Signing in proves who somebody is, and no more: what was typed in is used for that once and
//     kept nowhere, and a device that the homeserver made for it is logged out at once.
//   - A session ends after 30 minutes without use, after 12 hours in any case, and when it is
//     ended, for every replica at once. The database is not worth a session.
//   - A form counts only if a page of the same session, or of the same browser before there is
//     one, has it, and the browser does not say that another website sent it.
//   - attempts to sign in are limited by network and by the user that is named.
//
// It must never put a token, a password or a cookie into an error, a log or a URL.
//
// Importer: console.
package gate
