// Package late has the events that a client was not shown, or not in clear, because their key
// is missing or the sending device is not trusted. They wait in the store as they came, and
// are delivered in a later sync once they can be shown.
//
// It promises:
//   - Nothing is missed: if a key comes, or more becomes known of a sender, while an event is
//     judged by what was known before, the event is judged again.
//   - What waits is stored before the response is given to the client, and goes only when the
//     client has synced from the response that carried it.
//   - A held event is shown when its key comes or its time is over, whichever is first, and
//     one that was shown is not hidden again.
//   - What a page of history showed without its text waits too, while few wait, and once.
//   - It is bounded: the oldest pending events go, and held ones above a number are shown as
//     placeholders at once.
//
// It must never decide what a client is shown of an event, or keep an event's clear text.
//
// Importer: e2ee.
package late
