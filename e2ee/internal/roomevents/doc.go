// Package roomevents opens room events as the homeserver sends them: they are parsed
// strictly, decrypted, judged, and the client is shown the clear event, the event with a
// mark, a placeholder, or nothing yet.
//
// It promises:
//   - Whose an event is follows from who owns its room key, never from the event itself.
//   - What cannot be judged is not shown: a fault of ours says nothing of an event, and it
//     is opened again later.
//   - A batch takes a few queries and two writes, whatever its size: one of what was
//     decrypted, and one of what can be found in it.
//
// It must never tell what stands in an event that it withholds, but its sender, time and
// room; nor wait for keys longer than the caller allows.
//
// Importer: e2ee.
package roomevents
