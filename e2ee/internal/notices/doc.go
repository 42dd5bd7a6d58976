// Package notices has the warnings of an account: what raises and ends one, and how the
// user is shown it, in the control API and as messages in the rooms that it is about.
//
// It promises:
//   - A warning is stored together with what it is about, so that a change of an identity
//     that is known was also told (requirements 1.10, 1.11).
//   - One code and subject make one row, whatever a homeserver does.
//   - A dismissal ends this warning, not the next one of its kind.
//   - What a client is shown as a message has names that no homeserver has ([Server]), never
//     goes upstream, and is shown again until the client has it.
//
// It must never ask the homeserver, decide what is sent to whom, or say how the user's own
// side stands: it is told that (see [Account.Review]).
//
// Importer: e2ee.
package notices
