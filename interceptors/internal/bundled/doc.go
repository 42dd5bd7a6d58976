// Package bundled knows where other events stand inside an event, and which of them may: the
// latest edit, the latest event of a thread, the event that redacted it, the stripped state of a
// room. A homeserver puts them there, so that they may be anything (requirements 19.3, 19.4).
//
// It promises:
//   - Every place is found, also in the events that stand in one another.
//   - What the proxy alone may say is removed from all of them, and from stripped state what may
//     not stand there.
//   - An edit counts only if it says that it is one of this event, is by its sender, of its type
//     and in its room, and as encrypted as the event is. Whatever else is said to relate to an
//     event says so itself.
//
// It must never decide trust or decrypt, or know where events stand in a body.
//
// Importer: interceptors/internal/rewrite.
package bundled
