// Package filter is the filter of a client: what of it goes to the homeserver, which has
// encrypted events, and what is applied again to the clear ones (requirement 19.12).
//
// It promises:
//   - What goes to the homeserver lets everything pass that the client's filter lets pass, and
//     all that encryption depends on.
//   - A filter that cannot be parsed strictly is an error, and never a wide one.
//   - What it does not know of a filter stays as it is.
//
// It must never decide what of an event is shown besides the filter, or ask the homeserver for
// anything but filters.
//
// Importers: interceptors and the packages above this one there.
package filter
